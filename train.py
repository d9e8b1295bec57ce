"""`python train.py ...` is `vgg-flax train ...`."""

import sys

from vgg_flax.__main__ import program

if __name__ == "__main__":
    program(["train", *sys.argv[1:]])
