"""VGG16 and VGG19 as Flax NNX modules, built from a frozen spec and run as pure functions of a plain dict.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556,
table 1, columns D (VGG16) and E (VGG19). Layer names are Keras's; pictures are NHWC, kernels HWIO.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from vgg_flax.params import Params
from vgg_flax.winograd import trained

Features = Literal["flatten", "block3", "block4", "block5", "block5_max", "all"]
GLOROT = nnx.initializers.glorot_uniform()  # Keras's default for convolutions and dense layers
POOLED_BLOCKS = {"block3": (3,), "block4": (4,), "block5": (5,), "block5_max": (5,), "all": (3, 4, 5)}


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
      features: what the head reads: `flatten` (block5, row by row), average-pooled block outputs, or block5's maxima
        (for imported heads).
      hidden: widths of the ReLU layers fc1, fc2, ...
      dropout: share of hidden units dropped in training.
      standardize: shift and scale the features by constants measured on the training pictures.
    """

    classes: int
    features: Features = "all"
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    standardize: bool = True


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A whole network. Frozen and hashable: a static argument to `jax.jit`."""

    backbone: BackboneSpec
    head: HeadSpec
    image_size: int
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def head_inputs(self) -> int:
        """Number of features that the head reads."""
        channels = {i: block[-1] for i, block in enumerate(self.backbone.blocks, 1)}
        if self.head.features == "flatten":
            return (self.image_size // 2 ** len(channels)) ** 2 * channels[len(channels)]
        return sum(channels[block] for block in POOLED_BLOCKS[self.head.features])


def imagenet_head(classes: int = 1000) -> HeadSpec:
    """The original three fully connected layers, which the notebook head repeats."""
    return HeadSpec(classes, "flatten", (4096, 4096), standardize=False)


class Backbone(nnx.Module):
    """The convolutions."""

    def __init__(self, spec: BackboneSpec, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.spec = spec
        channels = 3
        for name, out in conv_layers(spec):
            conv = nnx.Conv(channels, out, (3, 3), padding="SAME", dtype=dtype, kernel_init=GLOROT, rngs=rngs)
            setattr(self, name, conv)
            channels = out

    def __call__(self, inputs: jax.Array, first: int = 1) -> dict[str, jax.Array]:
        """Outputs of the blocks from `first` on: {"block1": [batch, height/2, width/2, 64], ...}.

        Args:
          inputs: normalised images `[batch, height, width, 3]`, or what the block before `first` gave.
        """
        outputs = {}
        x = inputs
        for i, block in enumerate(self.spec.blocks[first - 1 :], first):
            for j in range(1, len(block) + 1):
                conv = getattr(self, f"block{i}_conv{j}")
                x = nnx.relu(_unfused(_deep_conv(conv, _unfused(x)) if first > 1 else conv(_unfused(x))))
            x = nnx.max_pool(x, (2, 2), strides=(2, 2))
            outputs[f"block{i}"] = x
        return outputs


def _unfused(x: jax.Array) -> jax.Array:
    """The same array, whose computation XLA fuses with nothing after it: jax 0.12 on CPUs gets bfloat16 wrong there."""
    return jax.lax.optimization_barrier(x) if x.dtype == jnp.bfloat16 and jax.default_backend() == "cpu" else x


def _deep_conv(conv: nnx.Conv, x: jax.Array) -> jax.Array:
    """The same convolution; in float32 on a CPU in half the time of XLA's, forward and backward together."""
    if jax.default_backend() != "cpu" or conv.dtype != jnp.float32:
        return conv(x)
    assert conv.bias is not None
    return trained.convolution(x, conv.kernel[...]) + conv.bias[...]


class Head(nnx.Module):
    """The dense layers."""

    predictions: nnx.Linear

    def __init__(self, spec: HeadSpec, in_features: int, rngs: nnx.Rngs):
        self.spec = spec
        if spec.standardize:
            self.standardize = Standardize(in_features)
        for name, out in dense_layers(spec):
            # The last layer starts undecided: weights along directions that the training pictures never touch
            # would keep their random first values and disturb every new picture.
            kernel_init = nnx.initializers.zeros if name == "predictions" else GLOROT
            setattr(self, name, nnx.Linear(in_features, out, kernel_init=kernel_init, rngs=rngs))
            in_features = out

    def __call__(self, features: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Features `[batch, in_features]` -> logits `[batch, classes]`, float32. Without a key nothing is dropped."""
        x = features.astype(jnp.float32)
        if self.spec.standardize:
            x = self.standardize(x)
        for i, (name, _) in enumerate(dense_layers(self.spec)[:-1]):
            x = nnx.relu(getattr(self, name)(x))
            if dropout_key is not None and self.spec.dropout > 0:
                rngs = nnx.Rngs(dropout=jax.random.fold_in(dropout_key, i))
                x = nnx.Dropout(self.spec.dropout)(x, deterministic=False, rngs=rngs)
        return self.predictions(x)


class Standardize(nnx.Module):
    """(features - mean) / std with constants that training leaves alone."""

    def __init__(self, features: int):
        self.mean = nnx.Param(jnp.zeros(features))
        self.std = nnx.Param(jnp.ones(features))

    def __call__(self, x: jax.Array) -> jax.Array:
        return (x - self.mean[...]) / self.std[...]


class VGG(nnx.Module):
    """Backbone and head. Call `features`, then `classify`."""

    def __init__(self, spec: ModelSpec, rngs: nnx.Rngs):
        self.spec = spec
        self.backbone = Backbone(spec.backbone, jnp.dtype(spec.precision), rngs)
        self.head = Head(spec.head, spec.head_inputs, rngs)

    def features(self, images: jax.Array) -> jax.Array:
        """Normalised images `[batch, size, size, 3]` -> what the head reads, float32 `[batch, head_inputs]`."""
        return gather_features(self.backbone(images), self.spec.head.features)

    def classify(self, features: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Features `[batch, head_inputs]` -> logits `[batch, classes]`, float32."""
        return self.head(features, dropout_key)


@functools.partial(jax.jit, static_argnums=0)
def init_backbone(spec: ModelSpec, key: jax.Array) -> Params:
    """Random convolutions, as Keras draws them: Glorot uniform kernels, zero biases."""
    return nnx.to_pure_dict(nnx.state(Backbone(spec.backbone, jnp.dtype(spec.precision), nnx.Rngs(key))))


@functools.partial(jax.jit, static_argnums=0)
def init_head(spec: ModelSpec, key: jax.Array) -> Params:
    """Random dense layers, drawn likewise, except the last one, which is zero."""
    return nnx.to_pure_dict(nnx.state(Head(spec.head, spec.head_inputs, nnx.Rngs(key))))


@functools.cache
def abstract_params(spec: ModelSpec) -> Params:
    """Shapes and dtypes of every parameter, without allocating one."""
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(lambda: VGG(spec, nnx.Rngs(0)))))


def bind(spec: ModelSpec, params: Params) -> VGG:
    """The network with these parameters. Cheap under `jax.jit`, where it belongs."""
    return nnx.merge(_graph(lambda: VGG(spec, nnx.Rngs(0))), params)


def bind_backbone(spec: ModelSpec, params: Params) -> Backbone:
    """The convolutions alone, from `params["backbone"]`."""
    dtype = jnp.dtype(spec.precision)
    return nnx.merge(_graph(lambda: Backbone(spec.backbone, dtype, nnx.Rngs(0))), params)


def bind_head(spec: ModelSpec, params: Params) -> Head:
    """The dense layers alone, from `params["head"]`."""
    return nnx.merge(_graph(lambda: Head(spec.head, spec.head_inputs, nnx.Rngs(0))), params)


def _graph(build: Callable[[], nnx.Module]) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(build))[0]


def gather_features(blocks: dict[str, jax.Array], features: Features) -> jax.Array:
    """Block outputs -> float32 `[batch, n]`: block5 flattened, or pooled over height and width, side by side."""
    if features == "flatten":
        last = blocks["block5"]
        return last.reshape(last.shape[0], -1).astype(jnp.float32)
    if features == "block5_max":
        return blocks["block5"].astype(jnp.float32).max((1, 2))
    pooled = [blocks[f"block{i}"].astype(jnp.float32).mean((1, 2)) for i in POOLED_BLOCKS[features]]
    return jnp.concatenate(pooled, axis=-1)


def feature_columns(spec: ModelSpec, features: Features) -> np.ndarray:
    """Where `features` lie among those that the head of `spec` reads: int `[n]`."""
    if features == "flatten":
        return np.arange(spec.head_inputs)
    blocks = POOLED_BLOCKS[spec.head.features]
    owners = np.repeat(blocks, [spec.backbone.blocks[i - 1][-1] for i in blocks])
    return np.flatnonzero(np.isin(owners, POOLED_BLOCKS[features]))


def conv_layers(spec: BackboneSpec) -> list[tuple[str, int]]:
    """(Keras layer name, output channels) of every convolution, in order."""
    return [(f"block{i}_conv{j}", out) for i, block in enumerate(spec.blocks, 1) for j, out in enumerate(block, 1)]


def dense_layers(spec: HeadSpec) -> list[tuple[str, int]]:
    """(Keras layer name, width) of every dense layer, in order."""
    return [(f"fc{i}", out) for i, out in enumerate(spec.hidden, 1)] + [("predictions", spec.classes)]
