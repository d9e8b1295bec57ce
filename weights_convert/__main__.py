"""`python -m weights_convert`: the same as `vgg-flax convert`."""

from __future__ import annotations

import sys

from vgg_flax import __main__ as vgg_flax

if __name__ == "__main__":
    vgg_flax.program(["convert", *sys.argv[1:]])
