"""`python webcam.py ...` is `vgg-flax webcam ...`."""

import sys

from vgg_flax.__main__ import main

if __name__ == "__main__":
    main(["webcam", *sys.argv[1:]])
