"""VGG16 and VGG19 as Flax NNX modules, built from a frozen spec and run as pure functions of a plain dict.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv:1409.1556,
table 1, columns D (VGG16) and E (VGG19). Layer names are Keras's; pictures are NHWC, kernels HWIO.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from flax import nnx

from vgg_flax.network.params import Params
from vgg_flax.network.spec import BackboneSpec, HeadSpec, ModelSpec, conv_layers, dense_layers, pooled_columns
from vgg_flax.network.winograd import trained

GLOROT = nnx.initializers.glorot_uniform()  # Keras's default for convolutions and dense layers


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
        return read_blocks(self.backbone(images), self.spec.head)

    def classify(self, features: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
        """Features `[batch, head_inputs]` -> logits `[batch, classes]`, float32."""
        return self.head(features, dropout_key)


@functools.partial(jax.jit, static_argnums=0)
def init_backbone(spec: BackboneSpec, key: jax.Array) -> Params:
    """Random convolutions, as Keras draws them: Glorot uniform kernels, zero biases."""
    return nnx.to_pure_dict(nnx.state(Backbone(spec, jnp.dtype("float32"), nnx.Rngs(key))))


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


def bind_backbone(spec: BackboneSpec, precision: str, params: Params) -> Backbone:
    """The convolutions alone, from `params["backbone"]`."""
    return nnx.merge(_graph(lambda: Backbone(spec, jnp.dtype(precision), nnx.Rngs(0))), params)


def bind_head(spec: ModelSpec, params: Params) -> Head:
    """The dense layers alone, from `params["head"]`."""
    return nnx.merge(_graph(lambda: Head(spec.head, spec.head_inputs, nnx.Rngs(0))), params)


def _graph(build: Callable[[], nnx.Module]) -> nnx.GraphDef:
    return nnx.split(nnx.eval_shape(build))[0]


def pool(blocks: dict[str, jax.Array], numbers: Iterable[int], pools: Iterable[str]) -> jax.Array:
    """Averages and maxima of block outputs over height and width, block by block: float32 `[batch, n]`."""
    kinds = {"average": jnp.mean, "maximum": jnp.max}
    pools = tuple(pools)
    parts = [kinds[kind](blocks[f"block{i}"].astype(jnp.float32), (1, 2)) for i in numbers for kind in pools]
    return jnp.concatenate(parts, axis=-1)


def read_blocks(blocks: dict[str, jax.Array], head: HeadSpec) -> jax.Array:
    """Block outputs -> what a head reads of them, float32 `[batch, head_inputs]`."""
    if head.flat:
        last = blocks["block5"]
        return last.reshape(last.shape[0], -1).astype(jnp.float32)
    return pool(blocks, head.blocks, head.pools)


def read_stored(spec: ModelSpec, what: str, backbone: Params, stored: jax.Array) -> jax.Array:
    """What the head reads, float32 `[batch, head_inputs]`, from what is kept of a picture.

    Args:
      what: `pooled`, a map such as `block4`, or `images`, normalised: see `Cut.stored`.
      backbone: its parameters; those of the layers above `what` are used.
      stored: float32 `[batch, ...]`.
    """
    if what == "pooled":
        return stored[:, pooled_columns(spec.backbone, spec.head.blocks, spec.head.pools)]
    if what == "block5":
        return read_blocks({"block5": stored}, spec.head)
    first = 1 if what == "images" else int(what.removeprefix("block")) + 1
    return read_blocks(bind_backbone(spec.backbone, spec.precision, backbone)(stored, first), spec.head)
