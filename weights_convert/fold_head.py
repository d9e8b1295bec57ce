"""The head of a person's own Keras or ONNX model -> our dense layers, with everything else folded into them.

Dropout and augmentation do nothing when a model is used. A batch norm is a factor and a summand for each feature, and
goes into the dense layer beside it. One sigmoid is the same as a softmax over (0, z). What can't be carried over
exactly is refused by name.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import numpy as np

from vgg_flax.network.params import Params
from vgg_flax.network.spec import HeadSpec, Pool
from weights_convert.affine import CONSTANT, affine, moments, rescaling
from weights_convert.keras_config import IDLE, Layer, chain, declared_size
from weights_convert.recipes import Exact
from weights_convert.rules import DEPTHS
from weights_convert.tensor import Source, Tensor, printable, read_float32, refuse

POOLS: dict[str, Pool] = {"Flatten": "flatten", "GlobalAveragePooling2D": "average", "GlobalMaxPooling2D": "maximum"}


@dataclasses.dataclass(frozen=True)
class Head:
    """A head in our terms.

    Attributes:
      spec: what it reads of block 5, and its layers.
      params: {"fc1": {"kernel", "bias"}, ..., "predictions": ...}, and {"standardize": {"mean", "std"}}.
      image_size: side of the pictures it was trained on, if the file says so.
      scale, offset: of Rescaling and Normalization layers before the first convolution, whose input is
        x * scale + offset; one number a channel, in the model's own colour order.
      reads: shape in the file of the first dense kernel, if it reads the features as they are.
    """

    spec: HeadSpec
    params: Params
    image_size: int | None
    scale: Exact
    offset: Exact
    reads: tuple[int, int] | None = None

    @property
    def inputs(self) -> int:
        """Number of features that it reads."""
        return self.params["fc1" if self.spec.hidden else "predictions"]["kernel"].shape[0]


def read_head(source: Source) -> Head:
    """The head of a whole model, whose layers the reader has put into Keras's terms.

    Raises:
      WeightFileError: no whole model, or a layer that our heads don't have.
    """
    if not source.whole:
        refuse(source.path, "says nothing of the layers behind the backbone. Expected a whole Keras or ONNX model.")
    layers = chain(source.path, source.config)
    convs = [i for i, layer in enumerate(layers) if layer.kind in ("Conv2D", "Convolution2D")]
    pools = [i for i, layer in enumerate(layers) if layer.kind == "MaxPooling2D"]
    if not convs or not pools or pools[-1] < convs[-1]:
        refuse(source.path, "is no VGG: expected convolutions that end in a MaxPooling2D.")
    _check_backbone(source, layers[convs[0] : pools[-1] + 1])
    scale, offset = rescaling(source, layers[: convs[0]])
    builder = _Builder(source)
    for layer in layers[pools[-1] + 1 :]:
        builder.add(layer)
    return builder.finish(declared_size(layers), scale, offset)


def _check_backbone(source: Source, layers: list[Layer]) -> None:
    blocks, size = [], 0
    for layer in layers:
        config = layer.config
        if layer.kind == "MaxPooling2D":
            plain = config.get("pool_size") in ([2, 2], None) and config.get("strides") in ([2, 2], None)
            blocks.append(size)
            size = 0
        elif layer.kind in ("Conv2D", "Convolution2D"):
            strides = config.get("strides", config.get("subsample", [1, 1]))
            padding = config.get("padding", config.get("border_mode"))
            plain = list(strides) == [1, 1] and padding == "same" and config.get("activation") == "relu"
            plain = plain and config.get("data_format", "channels_last") in ("channels_last", None)
            size += 1
        else:
            plain = layer.kind in IDLE
        if not plain:
            what = f"{printable(layer.kind)} {printable(layer.name)}"
            refuse(source.path, f"{what} is no layer of a VGG backbone. Expected 3x3 'same' ReLU convolutions.")
    if tuple(blocks) not in DEPTHS.values():
        refuse(source.path, f"is no VGG: its blocks have {blocks} convolutions.")


class _Builder:
    """Takes the head's layers one by one; a factor and a summand wait for the next dense layer."""

    def __init__(self, source: Source):
        self.source = source
        self.pool: Pool | None = None
        self.dense: list[tuple[np.ndarray, np.ndarray]] = []
        self.activation: str | None = None  # of the last dense layer; None while it has had none
        self.scale: np.ndarray | None = None
        self.shift: np.ndarray | None = None
        self.standardize: tuple[np.ndarray, np.ndarray] | None = None
        self.reads: tuple[int, int] | None = None

    def add(self, layer: Layer) -> None:
        """Take one layer."""
        config = layer.config
        if layer.kind in IDLE:
            return
        if layer.kind in POOLS and not self.dense and (layer.kind == "Flatten" or self.pool is None):
            self.pool = self.pool or POOLS[layer.kind]
            if self.pool == "maximum" and self.scale is not None and self.scale.min() < 0:
                self._unknown(layer)  # the largest would become the least
        elif layer.kind == "Dense" and self.pool:
            self._dense(layer)
            self._activate(config.get("activation"), layer)
        elif layer.kind == "BatchNormalization":
            self._norm(layer)
        elif layer.kind == "Normalization":
            self._normalize(*moments(self.source, layer))
        elif layer.kind in CONSTANT:
            scale, offset = affine(self.source, layer)
            self._then(scale.astype(np.float64), offset.astype(np.float64))
        elif layer.kind in ("Activation", "ReLU", "Softmax") and self.dense:
            named = {"ReLU": "relu", "Softmax": "softmax"}.get(layer.kind) or config.get("activation")
            if any(config.get(key) for key in ("max_value", "negative_slope", "threshold")):
                self._unknown(layer)
            self._activate(named, layer)
        else:
            self._unknown(layer)

    def _unknown(self, layer: Layer) -> None:
        known = "Flatten, GlobalAveragePooling2D, GlobalMaxPooling2D, Dense, Dropout, BatchNormalization and Activation"
        what = f"{printable(layer.kind)} {printable(layer.name)}"
        refuse(self.source.path, f"{what} can't be carried over into a head of ours. Expected {known}.")

    def _dense(self, layer: Layer) -> None:
        if self.dense and self.activation != "relu":
            named = self.activation or "no activation"
            refuse(self.source.path, f"{named} before {printable(layer.name)}. Expected ReLU between dense layers.")
        kernel = self._read(layer.name, ("kernel", "W", "0"))
        bias = self._read(layer.name, ("bias", "b", "1")) if layer.config.get("use_bias", True) else None
        bias = np.zeros(kernel.shape[-1], np.float32) if bias is None else bias
        if kernel.ndim != 2 or bias.shape != kernel.shape[1:]:
            refuse(self.source.path, f"layer {printable(layer.name)} has the shapes {kernel.shape} and {bias.shape}.")
        if self.dense and kernel.shape[0] != self.dense[-1][1].size:
            refuse(self.source.path, f"layer {printable(layer.name)} reads {kernel.shape[0]} features.")
        if not self.dense and self.scale is None and self.standardize is None:
            self.reads = kernel.shape
        if self.standardize and not self.dense:
            if self.standardize[0].size not in (1, len(kernel)) or self.standardize[1].size not in (1, len(kernel)):
                refuse(self.source.path, f"the Normalization before {printable(layer.name)} does not fit its features.")
            mean, deviation = (np.broadcast_to(array, len(kernel)).copy() for array in self.standardize)
            self.standardize = mean, deviation
        if self.scale is not None and self.shift is not None:
            repeat = kernel.shape[0] // self.scale.size  # Flatten repeats the channels for every place
            scale, shift = np.tile(self.scale, repeat), np.tile(self.shift, repeat)
            if scale.size != kernel.shape[0]:
                refuse(self.source.path, f"the batch norm before {printable(layer.name)} has {scale.size} features.")
            bias = (bias + shift @ kernel.astype(np.float64)).astype(np.float32)
            kernel = (kernel * scale[:, None]).astype(np.float32)
            self.scale = self.shift = None
        self.dense.append((kernel, bias))
        self.activation = None

    def _activate(self, name: Any, layer: Layer) -> None:
        if isinstance(name, dict):  # Keras 3 writes some activations as objects
            name = name.get("config")
        if name in (None, "linear"):
            return
        if self.activation is not None or self.scale is not None or name not in ("relu", "softmax", "sigmoid"):
            what = f"activation {printable(name)} of {printable(layer.name)}"
            refuse(self.source.path, f"{what} can't be carried over. Expected relu, and softmax or sigmoid at the end.")
        self.activation = name

    def _norm(self, layer: Layer) -> None:
        config = layer.config
        size = self._read(layer.name, ("moving_variance", "running_std", "3"), self._index(config, 3)).astype(
            np.float64
        )
        mean = self._read(layer.name, ("moving_mean", "running_mean", "2"), self._index(config, 2))
        gamma = self._read(layer.name, ("gamma", "0")) if config.get("scale", True) else np.ones_like(mean)
        beta = (
            self._read(layer.name, ("beta", "1"), self._index(config, 1))
            if config.get("center", True)
            else np.zeros_like(mean)
        )
        scale = gamma / np.sqrt(size + float(config.get("epsilon", 1e-3)))
        shift = beta - mean * scale
        if not np.isfinite(scale).all():
            refuse(self.source.path, f"layer {printable(layer.name)} has negative variances.")
        self._then(scale, shift)

    def _normalize(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        """A Normalization: of the features as they are, it is what our heads call `standardize`."""
        if self.pool and not self.dense and self.scale is None and self.standardize is None:
            self.standardize = mean.astype(np.float32), deviation.astype(np.float32)
        else:
            self._then(1 / deviation, -mean / deviation)

    def _then(self, scale: np.ndarray, shift: np.ndarray) -> None:
        """The features are multiplied by `scale`, and `shift` is added."""
        if self.dense and self.activation is None:  # between a dense layer and its activation
            kernel, bias = self.dense[-1]
            self.dense[-1] = ((kernel * scale).astype(np.float32), (bias * scale + shift).astype(np.float32))
            return
        parts = [part for part in (scale, shift, self.scale, self.shift) if part is not None]
        size = max(part.size for part in parts)
        if any(part.size == 0 or size % part.size for part in parts):
            sizes = ", ".join(str(part.size) for part in parts)
            refuse(self.source.path, f"normalises the same features with vectors of {sizes} values.")
        by, plus, *before = (np.resize(part, size) for part in parts)  # Flatten repeats the channels for every place
        self.scale, self.shift = (before[0] * by, before[1] * by + plus) if before else (by, plus)

    @staticmethod
    def _index(config: dict[str, Any], index: int) -> str | None:
        """Keras 3 numbers the variables that are there: without gamma or beta the others move up."""
        missing = [not config.get("scale", True), not config.get("center", True) and index > 1]
        return str(index - sum(missing)) if any(missing) else None

    def _read(self, layer: str, names: tuple[str, ...], number: str | None = None) -> np.ndarray:
        wanted = (*names[:-1], number) if number else names
        pattern = rf"(?:.*/)?{re.escape(layer)}/(?:.*/)?(?:{'|'.join(map(re.escape, wanted))})(?:_\d+)?"
        found: list[Tensor] = [t for t in self.source.tensors if re.fullmatch(pattern, t.key)]
        if len(found) != 1:
            what = f"{len(found)} tensors called {names[0]} for layer {printable(layer)}"
            refuse(self.source.path, f"holds {what}. Expected one.")
        return read_float32(self.source.path, found[0])

    def finish(self, image_size: int | None, scale: Exact, offset: Exact) -> Head:
        """The head."""
        if not self.dense or self.pool is None:
            refuse(self.source.path, "has no dense layers behind its backbone. Expected a whole classifier.")
        if self.scale is not None:
            refuse(self.source.path, "ends in a batch norm, which can't be carried over.")
        kernel, bias = self.dense[-1]
        if bias.size == 1:  # a sigmoid of z is a softmax over (0, z)
            kernel = np.concatenate([np.zeros_like(kernel), kernel], 1)
            bias = np.concatenate([np.zeros_like(bias), bias])
            self.dense[-1] = (kernel, bias)
        elif self.activation not in ("softmax", None):
            refuse(self.source.path, f"ends in {self.activation} over {bias.size} classes. Expected softmax.")
        names = [*(f"fc{i}" for i in range(1, len(self.dense))), "predictions"]
        params = {name: {"kernel": k, "bias": b} for name, (k, b) in zip(names, self.dense, strict=True)}
        if self.standardize:
            params["standardize"] = dict(zip(("mean", "std"), self.standardize, strict=True))
        hidden = tuple(b.size for _, b in self.dense[:-1])
        standardize = self.standardize is not None
        spec = HeadSpec(self.dense[-1][1].size, (5,), (self.pool,), hidden, standardize=standardize)
        return Head(spec, params, image_size, scale, offset, self.reads)
