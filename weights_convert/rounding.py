"""Kernels in fewer bits, for smaller files: float16, or int8 with one scale for each output channel.

Symmetric, without a zero point: weight = int8 * scale. Source: Krishnamoorthi, arXiv:1806.08342, section 3.1.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np

from vgg_flax.answers.bundle import Bundle
from vgg_flax.network.params import flatten, unflatten

Weights = Literal["float32", "float16", "int8"]


def to_int8(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float32 `[..., out]` -> (int8 of the same shape in -127..127, float32 scales `[out]`)."""
    largest = np.abs(kernel).max(tuple(range(kernel.ndim - 1)))
    scales = (np.where(largest > 0, largest, 1) / 127).astype(np.float32)
    return np.clip(np.rint(kernel / scales), -127, 127).astype(np.int8), scales


def rounded(bundle: Bundle, weights: Weights) -> Bundle:
    """The model that a reader of the smaller file gets: every kernel rounded, everything else as it is."""

    def leaf(path: str, array: Any) -> np.ndarray:
        array = np.asarray(array)
        if weights == "float32" or not path.endswith("/kernel"):
            return array
        if weights == "float16":
            return array.astype(np.float16).astype(np.float32)
        integers, scales = to_int8(array)
        return integers * scales

    params = unflatten({path: leaf(path, array) for path, array in flatten(bundle.params).items()})
    return dataclasses.replace(bundle, params=params)
