"""One stored tensor on its way to one parameter: layout, colour order, and a batch norm folded in."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from weights_convert.layouts import LAYOUTS
from weights_convert.readers.base import Tensor, read_float32, refuse

NORM_EPSILON = 1e-5  # of torch.nn.BatchNorm2d
NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


@dataclasses.dataclass(frozen=True)
class Move:
    """One stored tensor on its way to one parameter.

    Attributes:
      target: path of the parameter, `backbone/block1_conv1/kernel`.
      layout: key of `layouts.LAYOUTS`.
      flip: reverse the input channels, BGR -> RGB.
      channels: of the backbone's last block.
      norm: {part: move} of the batch norm that is folded into this convolution.
    """

    path: Path
    target: str
    tensor: Tensor
    layout: str
    flip: bool = False
    channels: int = 0
    norm: dict[str, Move] = dataclasses.field(default_factory=dict)

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
        scale = parts["weight"] / np.sqrt(parts["running_var"] + NORM_EPSILON)
        if not np.isfinite(scale).all():
            refuse(self.path, f"tensor {self.norm['running_var'].tensor.name} is negative. Expected variances.")
        if array.ndim == 4:
            return (array * scale).astype(np.float32)
        return ((array - parts["running_mean"]) * scale + parts["bias"]).astype(np.float32)
