"""One stored tensor on its way to one parameter: its layout, colours, a batch norm folded in, its shape.

Our layout is HWIO for convolutions and [in, out] for dense layers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from weights_convert.rules import DEPTHS, TOP_LAYERS, WIDTHS, conv_names
from weights_convert.tensor import Source, Tensor, read_float32, refuse

if TYPE_CHECKING:
    from vgg_flax.network.spec import BackboneSpec

NORM_PARTS = ("weight", "bias", "running_mean", "running_var")
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


@dataclasses.dataclass(frozen=True)
class Move:
    """One stored tensor on its way to one parameter.

    Attributes:
      target: path of the parameter, `backbone/block1_conv1/kernel`.
      layout: key of `LAYOUTS`.
      flip: reverse the input channels, BGR -> RGB.
      channels: of the backbone's last block.
      norm: {part: move} of the batch norm that is folded into this convolution.
      epsilon: of a batch norm, added to its variance.
    """

    path: Path
    target: str
    tensor: Tensor
    layout: str
    flip: bool = False
    channels: int = 0
    norm: dict[str, Move] = dataclasses.field(default_factory=dict)
    epsilon: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        """The parameter's shape."""
        return LAYOUTS[self.layout].shape(self.tensor.shape)

    def read(self) -> np.ndarray:
        """The parameter, float32, C order. Raises WeightFileError for damaged or non-finite data."""
        stored = read_float32(self.path, self.tensor)
        try:
            array = LAYOUTS[self.layout].convert(stored, self.channels)
        except ValueError as error:
            refuse(self.path, f"tensor {self.tensor.name} of shape {stored.shape}: {error}.")
        if array.ndim == 4 and not array.any():
            why = "is all zeros, as data that was never written. Expected weights."
            refuse(self.path, f"tensor {self.tensor.name} {why}")
        if self.norm:
            array = self._fold(array)
        return np.ascontiguousarray(array[:, :, ::-1] if self.flip else array)

    def _fold(self, array: np.ndarray) -> np.ndarray:
        """gamma * (conv + b - mean) / sqrt(var + eps) + beta, as one kernel and one bias; in double precision."""
        parts = {part: move.read().astype(np.float64) for part, move in self.norm.items()}
        scale = parts["weight"] / np.sqrt(parts["running_var"] + self.norm["running_var"].epsilon)
        if not np.isfinite(scale).all():
            refuse(self.path, f"tensor {self.norm['running_var'].tensor.name} is negative. Expected variances.")
        if array.ndim == 4:
            return (array * scale).astype(np.float32)
        return ((array - parts["running_mean"]) * scale + parts["bias"]).astype(np.float32)


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
        stored = kernel.tensor.shape
        if kernel.layout == "hwio" and stored[2:] == (3, 3) and stored[:2] != (3, 3):
            refuse(
                source.path,
                f"tensor {kernel.tensor.name} has shape {stored}: channels_first kernels of a Theano model, "
                "which are not read. Expected [3, 3, in, out]: save the weights as channels_last.",
            )
        norms = [(move, (width,)) for move in bias.norm.values()]
        for move, shape in ((kernel, (3, 3, channels, width)), (bias, (width,)), *norms):
            if move.shape != shape:
                axes = LAYOUTS[move.layout].axes
                stored_as = f"{move.tensor.shape} as {axes}"
                wanted = f"{move.target} of {model.upper()} is {shape} as [height, width, in, out]"
                refuse(source.path, f"tensor {move.tensor.name} has shape {stored_as}; {wanted}.")
        channels = width
    if "top/fc1/kernel" in moves:
        _check_top(source, moves, channels)


def _check_top(source: Source, moves: dict[str, Move], channels: int) -> None:
    inputs = moves["top/fc1/kernel"].shape[0]
    if inputs % channels:
        refuse(source.path, f"fc1 reads {inputs} features. Expected a multiple of {channels} channels.")
    for layer in TOP_LAYERS:
        kernel, bias = moves[f"top/{layer}/kernel"], moves[f"top/{layer}/bias"]
        if kernel.shape != (inputs, *bias.shape):
            refuse(
                source.path,
                f"tensor {kernel.tensor.name} has shape {kernel.shape}, expected {(inputs, *bias.shape)}: "
                f"{inputs} features in, and as many out as {bias.tensor.name} has.",
            )
        inputs = bias.shape[0]


def wrong_model(path: Path, found: str, expected: str) -> NoReturn:
    """Refuse a file that holds the other model."""
    have, want = (f"{name.upper()} ({sum(DEPTHS[name])} convolutions)" for name in (found, expected))
    refuse(path, f"holds {have}, expected {want}: use --model {found}.")
