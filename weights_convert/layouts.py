"""How others lay out a kernel, and the way to ours: HWIO for convolutions, [in, out] for dense layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout of a stored tensor.

    Attributes:
      rank: number of axes.
      shape: stored shape -> our shape.
      convert: (stored array, channels of the backbone's last block) -> ours.
      axes: for messages.
    """

    rank: int
    shape: Callable[[Shape], Shape]
    convert: Callable[[np.ndarray, int], np.ndarray]
    axes: str


def _rows_from_chw(array: np.ndarray, channels: int) -> np.ndarray:
    """[out, channels * side * side] -> [side * side * channels, out]: torch flattens channel by channel."""
    side = math.isqrt(array.shape[1] // channels)
    if side * side * channels != array.shape[1]:
        raise ValueError(f"{array.shape[1]} features are no square of {channels} channels")
    return _rows_from_conv(array.reshape(-1, channels, side, side), channels)


def _rows_from_conv(array: np.ndarray, channels: int) -> np.ndarray:
    """[out, in, height, width] of a convolution as large as its input -> [height * width * in, out]."""
    return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])


LAYOUTS = {
    "hwio": Layout(4, lambda s: s, lambda a, _: a, "[height, width, in, out]"),
    "oihw": Layout(
        4, lambda s: (s[2], s[3], s[1], s[0]), lambda a, _: a.transpose(2, 3, 1, 0), "[out, in, height, width]"
    ),
    "oihw_dense": Layout(4, lambda s: (s[1] * s[2] * s[3], s[0]), _rows_from_conv, "[out, in, height, width]"),
    "in_out": Layout(2, lambda s: s, lambda a, _: a, "[in, out]"),
    "out_in": Layout(2, lambda s: (s[1], s[0]), lambda a, _: a.T, "[out, in]"),
    "out_in_chw": Layout(2, lambda s: (s[1], s[0]), _rows_from_chw, "[out, in channel by channel]"),
    "bias": Layout(1, lambda s: s, lambda a, _: a, "[out]"),
    "bias_chw": Layout(3, lambda s: s[:1], lambda a, _: a.reshape(a.shape[:1]), "[out, 1, 1]"),
    "bias_nchw": Layout(4, lambda s: s[1:2], lambda a, _: a.reshape(a.shape[1:2]), "[1, out, 1, 1]"),
}
