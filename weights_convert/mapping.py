"""One stored tensor on its way to one parameter: its colours, its shape.

Our layout is HWIO for convolutions and [in, out] for dense layers.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from weights_convert.rules import DEPTHS, WIDTHS, conv_names
from weights_convert.tensor import TRAIN, Source, Tensor, read_float32, refuse

if TYPE_CHECKING:
    from vgg_flax.network.spec import BackboneSpec


def from_oihw(array: np.ndarray) -> np.ndarray:
    """[out, in, height, width] of a convolution -> [height, width, in, out]."""
    return array.transpose(2, 3, 1, 0)


def rows_from_chw(array: np.ndarray, channels: int) -> np.ndarray:
    """[out, channels * side * side] -> [side * side * channels, out]: torch flattens channel by channel."""
    side = math.isqrt(array.shape[1] // channels)
    if side * side * channels != array.shape[1]:
        raise ValueError(f"{array.shape[1]} features are no square of {channels} channels")
    return from_oihw(array.reshape(-1, channels, side, side)).reshape(-1, len(array))


def adaptive(side: int, out: int) -> np.ndarray:
    """[out, side]: what torch's AdaptiveAvgPool2d adds up for each of `out` rows, or columns, of a map.

    Source: `start_index` and `end_index` of ATen's AdaptivePooling.h.
    """
    rows = np.zeros((out, side))
    for i in range(out):
        first, end = i * side // out, -(-(i + 1) * side // out)
        rows[i, first:end] = 1 / (end - first)
    return rows


@dataclasses.dataclass(frozen=True)
class Move:
    """One stored tensor on its way to one parameter.

    Attributes:
      target: path of the parameter, `backbone/block1_conv1/kernel`.
      tensor: in our layout.
      flip: reverse the input channels, BGR -> RGB.
      norm: what there is of a batch norm that is folded into it.
    """

    path: Path
    target: str
    tensor: Tensor
    flip: bool = False
    norm: tuple[Tensor, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return self.tensor.shape

    def read(self) -> np.ndarray:
        """The parameter, float32, C order. Raises WeightFileError for damaged or non-finite data."""
        array = read_float32(self.path, self.tensor)
        if array.ndim == 4 and not array.any():
            why = "is all zeros, as data that was never written. Expected weights."
            refuse(self.path, f"tensor {self.tensor.name} {why}")
        return np.ascontiguousarray(array[:, :, ::-1] if self.flip else array)


def check_shapes(source: Source, moves: dict[str, Move], model: str, spec: BackboneSpec | None) -> None:
    """Compare with `spec`, or with the full-size model. Raises WeightFileError, naming the tensor."""
    names = conv_names(DEPTHS[model])
    if spec is None:
        widths = [width for width, depth in zip(WIDTHS, DEPTHS[model], strict=True) for _ in range(depth)]
    else:
        if tuple(map(len, spec.blocks)) != DEPTHS[model]:
            wrong_model(source.path, model, spec.name)
        widths = [width for block in spec.blocks for width in block]
    channels = 3
    for name, width in zip(names, widths, strict=True):
        kernel, bias = moves[f"backbone/{name}/kernel"], moves[f"backbone/{name}/bias"]
        norms = [(dataclasses.replace(bias, tensor=part), (width,)) for part in bias.norm]
        for move, shape in ((kernel, (3, 3, channels, width)), (bias, (width,)), *norms):
            if move.shape != shape:
                stored_as = f"{move.shape} as {'[height, width, in, out]' if len(shape) == 4 else '[out]'}"
                wanted = f"{move.target} of {model.upper()} is {shape}"
                refuse(source.path, f"tensor {move.tensor.name} has shape {stored_as}; {wanted}. {TRAIN}")
        channels = width


def wrong_model(path: Path, found: str, expected: str) -> NoReturn:
    """Refuse a file that holds the other model."""
    have, want = (f"{name.upper()} ({sum(DEPTHS[name])} convolutions)" for name in (found, expected))
    refuse(path, f"holds {have}, expected {want}: use --model {found}.")
