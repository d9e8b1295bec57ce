"""`python webcam.py ...` is `vgg-flax webcam ...`."""

import sys

from vgg_flax.__main__ import program

if __name__ == "__main__":
    program(["webcam", *sys.argv[1:]])
