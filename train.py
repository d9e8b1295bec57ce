"""`python train.py ...` is `vgg-flax train ...`."""

import sys

from vgg_flax.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
