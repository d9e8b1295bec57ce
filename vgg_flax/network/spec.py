"""What a network is, as plain data: hashable, so it can be compiled for; JSON, so it can be stored. No JAX, no OpenCV.

Layer names are Keras's. Parameters are one nested dict of arrays whose paths are those names:
backbone/block1_conv1/kernel [3, 3, in, out]     head/fc1/kernel [in, out]     head/predictions/bias [out]
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from typing import Literal

import numpy as np

from vgg_flax.region import shares

KERAS_MEAN = (123.68, 116.779, 103.939)  # RGB, of the ImageNet weights that Keras distributes
POOLED_BLOCKS = (3, 4, 5)  # whose averages and maxima are kept of every picture
POOLS = ("average", "maximum")

Pool = Literal["average", "maximum", "flatten"]
Precision = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes network input. Stored beside every set of weights.

    Attributes:
      image_size: side of the square input in pixels.
      mean, std: per channel, RGB, in units of 0..255; the input is (rgb - mean) / std.
      resize: `squash` scales both sides to `image_size`, whatever the aspect ratio.
      region: the part of a picture that the model sees, as `region.shares` reads it.
    """

    image_size: int
    mean: tuple[float, float, float] = KERAS_MEAN
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resize: Literal["squash"] = "squash"
    region: str = "full"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std}: expected three numbers each, std above 0.")
        if self.resize != "squash":
            raise ValueError(f"resize is {self.resize!r}, expected 'squash'.")
        shares(self.region)


@dataclasses.dataclass(frozen=True)
class BackboneSpec:
    """Output channels of every 3x3 convolution, block by block; each block ends in a 2x2 max-pool."""

    name: str
    blocks: tuple[tuple[int, ...], ...]


VGG16 = BackboneSpec("vgg16", ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3))
VGG19 = BackboneSpec("vgg19", ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4))
BACKBONES = {spec.name: spec for spec in (VGG16, VGG19)}


@dataclasses.dataclass(frozen=True)
class HeadSpec:
    """Dense layers on top of the backbone.

    Attributes:
      classes: number of logits.
      blocks: numbers of the blocks whose outputs the head reads.
      pools: how it reads each of them, side by side: the average or the maximum over height and width;
        or `flatten` alone, block 5 row by row.
      hidden: widths of the ReLU layers fc1, fc2, ...
      dropout: share of hidden units dropped in training.
      standardize: shift and scale the features by constants measured on the training pictures.
    """

    classes: int
    blocks: tuple[int, ...] = POOLED_BLOCKS
    pools: tuple[Pool, ...] = POOLS
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    standardize: bool = True

    def __post_init__(self) -> None:
        pooled = self.pools and set(self.pools) <= set(POOLS) and set(self.blocks) <= set(POOLED_BLOCKS)
        if not self.blocks or not (pooled or (self.pools == ("flatten",) and self.blocks == (5,))):
            raise ValueError(
                f"a head reads blocks {self.blocks} by {self.pools}, expected averages or maxima of blocks 3 to 5, "
                "or block 5 flattened."
            )

    @property
    def flat(self) -> bool:
        """Whether it reads block 5 row by row."""
        return self.pools == ("flatten",)


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A whole network. Frozen and hashable: a static argument to `jax.jit`."""

    backbone: BackboneSpec
    head: HeadSpec
    image_size: int
    precision: Precision = "float32"

    @property
    def head_inputs(self) -> int:
        """Number of features that the head reads."""
        if self.head.flat:
            side, _, channels = map_shape(self.backbone, self.image_size, 5)
            return side * side * channels
        return len(self.head.pools) * sum(self.backbone.blocks[block - 1][-1] for block in self.head.blocks)


def map_shape(backbone: BackboneSpec, image_size: int, block: int) -> tuple[int, int, int]:
    """(height, width, channels) of a block's output."""
    side = image_size // 2**block
    return side, side, backbone.blocks[block - 1][-1]


def pooled_columns(backbone: BackboneSpec, blocks: Iterable[int], pools: Iterable[str]) -> np.ndarray:
    """Where the features that a head reads lie in a pooled row: int `[n]`, in the order of the head.

    A pooled row is average and maximum of block 3, then of block 4, then of block 5.
    """
    places, start = {}, 0
    for block in POOLED_BLOCKS:
        for pool in POOLS:
            width = backbone.blocks[block - 1][-1]
            places[block, pool] = np.arange(start, start + width)
            start += width
    pools = tuple(pools)
    return np.concatenate([places[block, pool] for block in blocks for pool in pools])


@dataclasses.dataclass(frozen=True)
class Cut:
    """Where training begins.

    Attributes:
      first_block: the first trained block; 6 when only the head is trained, 1 when everything is.
      rates: ordered pairs (regular expression over a parameter's whole path, multiplier of the learning rate or None
        for frozen); the first that matches decides.
    """

    first_block: int
    rates: tuple[tuple[str, float | None], ...]

    def rate(self, path: str) -> float | None:
        """The multiplier for a parameter, None where it is frozen. Raises ValueError when no pattern covers it."""
        for pattern, rate in self.rates:
            if re.fullmatch(pattern, path):
                return rate
        raise ValueError(f"no pattern of {self.rates} covers parameter {path}.")

    def stored(self, head: HeadSpec) -> str:
        """What is kept of each picture for training: `pooled`, the map `block1` ... `block5`, or `images`."""
        if self.first_block == 1:
            return "images"
        if self.first_block <= 5 or head.flat:
            return f"block{self.first_block - 1}"
        return "pooled"


def _cut(first_block: int, *backbone: tuple[str, float | None]) -> Cut:
    return Cut(first_block, ((r"head/standardize/.*", None), (r"head/.*", 1.0), *backbone, (r"backbone/.*", None)))


CUTS = {"none": _cut(6), "block5": _cut(5, (r"backbone/block5_.*", 0.1)), "all": _cut(1, (r"backbone/.*", 0.1))}


def conv_layers(spec: BackboneSpec) -> list[tuple[str, int]]:
    """(Keras layer name, output channels) of every convolution, in order."""
    return [(f"block{i}_conv{j}", out) for i, block in enumerate(spec.blocks, 1) for j, out in enumerate(block, 1)]


def dense_layers(spec: HeadSpec) -> list[tuple[str, int]]:
    """(Keras layer name, width) of every dense layer, in order."""
    return [(f"fc{i}", out) for i, out in enumerate(spec.hidden, 1)] + [("predictions", spec.classes)]
