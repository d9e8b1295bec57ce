"""The convolutions of a whole Keras model, found by following its layers: only what computes what a VGG computes.

A batch norm between a convolution and its ReLU is folded into the convolution, a ReLU may be a layer of its own, and
ZeroPadding2D before a 'valid' convolution is 'same' padding.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from weights_convert import variables
from weights_convert.keras_config import CONVS, Graph, Layer
from weights_convert.mapping import Move
from weights_convert.rules import DEPTHS, conv_names
from weights_convert.tensor import TRAIN, Source, Tensor, read_float32, refuse

FIRST = "backbone/block1_conv1/kernel"
OTHER = f"is no layer of a VGG backbone: 3x3 'same' convolutions, each with its ReLU, and 2x2 max-pools. {TRAIN}"


@dataclasses.dataclass(frozen=True)
class Backbone:
    """Where the layers are.

    Attributes:
      convs: (convolution, its batch norm or None), in order.
      blocks: convolutions of each block.
      first, last: places in the graph of the first convolution and of what the head reads.
      pooled: it ends in a max-pool, as VGG does.
    """

    convs: list[tuple[Layer, Layer | None]]
    blocks: tuple[int, ...]
    first: int
    last: int
    pooled: bool


def find(graph: Graph) -> Backbone:
    """Follow the layers. Raises WeightFileError, naming the layer that no VGG has."""
    first = next((i for i, layer in enumerate(graph.layers) if layer.kind in CONVS), None)
    if first is None:
        alone = "Is it a head alone? Then: import --backbone imagenet"
        refuse(graph.path, f"has no convolutions. Expected the 13 of VGG16 or the 16 of VGG19. {alone}.")
    walk, i = _Walk(graph), first
    walk.padded = any(pads(graph.layers[ref.layer]) for ref in graph.layers[first].reads)
    while True:
        walk.step(graph.layers[i])
        if walk.pools == 5:
            break
        nexts = graph.readers(i)
        fits = [k for k in nexts if walk.fits(graph.layers[k])]
        if walk.blocks in DEPTHS.values() and not walk.linear and not fits:
            break
        if len(fits) != 1:
            layer = graph.layers[(fits or nexts or [i])[0]]
            refuse(graph.path, f"{layer.title} {OTHER}")
        i = fits[0]
    if walk.blocks not in DEPTHS.values():
        has = ", ".join(map(str, walk.blocks))
        refuse(graph.path, f"is no VGG: its blocks have {has} convolutions, not 2, 2, 3, 3, 3, or VGG19's. {TRAIN}")
    return Backbone(walk.convs, walk.blocks, first, i, walk.pools == 5)


class _Walk:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.convs: list[tuple[Layer, Layer | None]] = []
        self.sizes = [0]
        self.pools = 0
        self.linear = self.padded = False  # a ReLU is still to come; the next convolution is padded already

    @property
    def blocks(self) -> tuple[int, ...]:
        return tuple(size for size in self.sizes if size)

    def fits(self, layer: Layer) -> bool:
        """Whether a VGG may go on so."""
        kinds = (*CONVS, "MaxPooling2D", "BatchNormalization", "Activation", "ReLU", "ZeroPadding2D")
        return layer.idle or layer.kind in kinds

    def step(self, layer: Layer) -> None:
        """Take one layer."""
        config, kind = layer.config, layer.kind
        if kind in CONVS:
            plain = not self.linear and self._plain(config)
            self.convs.append((layer, None))
            self.sizes[-1] += 1
            self.linear, self.padded = config.get("activation") in (None, "linear"), False
        elif kind == "MaxPooling2D":
            two = all(config.get(key) in ([2, 2], 2, None) for key in ("pool_size", "strides"))
            even = (self.graph.image_size or 1) % 32 == 0  # or else 'same' pads
            plain = two and not self.linear and (even or config.get("padding", "valid") == "valid")
            self.sizes.append(0)
            self.pools += 1
        elif kind == "BatchNormalization":
            conv, norm = self.convs[-1]
            plain = self.linear and norm is None and config.get("axis", -1) in (-1, 3, [3])
            self.convs[-1] = conv, layer
        elif kind in ("Activation", "ReLU"):
            plain, self.linear = is_relu(layer), False
        else:
            plain = layer.idle or pads(layer)
            self.padded = self.padded or not layer.idle
        if not plain:
            refuse(self.graph.path, f"{layer.title} {OTHER}")

    def _plain(self, config: dict[str, Any]) -> bool:
        strides = config.get("strides", config.get("subsample", 1))
        padding = config.get("padding", config.get("border_mode"))
        return (
            strides in ([1, 1], 1)
            and padding == ("valid" if self.padded else "same")
            and _activation(config) in ("relu", "linear", None)
            and config.get("data_format") in ("channels_last", None)
            and config.get("dilation_rate", [1, 1]) in ([1, 1], 1)
            and config.get("groups", 1) == 1
        )


def pads(layer: Layer) -> bool:
    """It does what 'same' padding does before a 'valid' convolution."""
    return layer.kind == "ZeroPadding2D" and layer.config.get("padding") in ([[1, 1], [1, 1]], [1, 1], 1)


def _activation(config: dict[str, Any]) -> Any:
    name = config.get("activation")
    return name.get("config") if isinstance(name, dict) else name  # Keras 3 writes some as objects


def is_relu(layer: Layer) -> bool:
    """A plain ReLU as a layer of its own."""
    changed = any(layer.config.get(key) for key in ("max_value", "negative_slope", "threshold"))
    return not changed and (layer.kind == "ReLU" or _activation(layer.config) == "relu")


def moves(source: Source, found: Backbone, bgr: bool) -> dict[str, Move]:
    """{parameter's path: its move}, in order; zeros for a bias that a convolution lacks."""
    result: dict[str, Move] = {}
    for name, (conv, norm) in zip(conv_names(found.blocks), found.convs, strict=True):
        kernel = variables.find(source, conv, "kernel")
        assert kernel is not None
        bias = variables.find(source, conv, "bias") or _zeros(conv, kernel.shape[-1:])
        parts = [variables.find(source, norm, part) for part in variables.NORM] if norm else []
        for part, tensor in (("kernel", kernel), ("bias", bias)):
            target = f"backbone/{name}/{part}"
            tensor = _normed(source, tensor, norm) if norm else tensor
            result[target] = Move(source.path, target, tensor, bgr and target == FIRST, tuple(filter(None, parts)))
    return result


def _normed(source: Source, tensor: Tensor, norm: Layer) -> Tensor:
    """The kernel or bias of a convolution and the batch norm behind it, as one; in double precision."""

    def load() -> np.ndarray:
        array, (scale, shift) = read_float32(source.path, tensor), variables.norm(source, norm)
        return array * scale if array.ndim == 4 else array * scale + shift

    return dataclasses.replace(tensor, dtype="float64", load=load)


def _zeros(conv: Layer, shape: tuple[int, ...]) -> Tensor:
    """A bias that the file has no tensor for."""
    name = f"({conv.name}, without a bias)"
    return Tensor(name, name, shape, "float32", lambda: np.zeros(shape, np.float32))
