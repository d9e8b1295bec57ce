"""VGG against Keras's own, stage by stage, with the same random weights."""

import dataclasses
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vgg_flax.network.spec import BACKBONES, VGG16, VGG19, HeadSpec, ModelSpec

os.environ["KERAS_BACKEND"] = "jax"

from vgg_flax.network import model, params
from vgg_flax.network.winograd import trained

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


# The top of the ImageNet weights.
TOP = HeadSpec(1000, (5,), ("flatten",), hidden=(4096, 4096), standardize=False)


def relative_error(ours, theirs):
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.fixture(scope="module")
def keras():
    import keras

    return keras


def copy_from_keras(keras_model):
    """Keras's weights under our names; biases become random too, since Keras starts them at zero."""
    rng = np.random.default_rng(0)
    flat = {}
    for layer in keras_model.layers:
        if not layer.get_weights():
            continue
        kernel, bias = layer.get_weights()
        bias = rng.normal(size=bias.shape, scale=0.1).astype(np.float32)
        layer.set_weights([kernel, bias])
        part = "backbone" if layer.name.startswith("block") else "head"
        flat[f"{part}/{layer.name}/kernel"], flat[f"{part}/{layer.name}/bias"] = kernel, bias
    return params.unflatten(flat)


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_every_block_agrees_with_keras(keras, name):
    theirs = getattr(keras.applications, name.upper())(weights=None, include_top=False, input_shape=(64, 96, 3))
    ours = copy_from_keras(theirs)
    images = np.random.default_rng(1).normal(size=(2, 64, 96, 3)).astype(np.float32)
    stages = keras.Model(theirs.input, [theirs.get_layer(f"block{i}_pool").output for i in range(1, 6)])
    backbone = BACKBONES[name]
    blocks = jax.jit(lambda p, x: model.bind_backbone(backbone, "float32", p)(x))(ours["backbone"], images)
    outputs = stages(images)
    for i, expected in enumerate(outputs, 1):
        assert relative_error(blocks[f"block{i}"], expected) <= 1e-5, f"block{i}"
    # The last block alone, from what its forerunner gave.
    last = model.bind_backbone(backbone, "float32", ours["backbone"])(np.asarray(outputs[3]), first=5)
    assert list(last) == ["block5"]
    assert relative_error(last["block5"], outputs[4]) <= 1e-5


@pytest.mark.parametrize("name", ["vgg16", "vgg19"])
def test_logits_of_the_1000_class_top_agree_with_keras(keras, name):
    theirs = getattr(keras.applications, name.upper())(weights=None, classifier_activation=None)
    ours = copy_from_keras(theirs)
    images = np.random.default_rng(1).normal(size=(1, 224, 224, 3)).astype(np.float32)
    spec = ModelSpec(BACKBONES[name], TOP, 224)

    @jax.jit
    def logits(p, x):
        network = model.bind(spec, p)
        return network.classify(network.features(x))

    assert (
        relative_error(logits(params.merge_strict(model.abstract_params(spec), ours), images), theirs(images)) <= 1e-5
    )


@pytest.mark.parametrize("shape", [(2, 14, 14, 24, 8), (3, 7, 4, 5, 1), (1, 1, 2, 1, 3)])
def test_convolution_of_trained_layers_is_the_definition_with_its_gradients(shape):
    batch, height, width, channels, outputs = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (batch, height, width, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels, outputs))
    cotangent = jax.random.normal(keys[2], (batch, height, width, outputs))

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    (ours, pull), (expected, expected_pull) = jax.vjp(trained.convolution, x, kernel), jax.vjp(reference, x, kernel)
    assert relative_error(ours, expected) <= 2e-6
    for gradient, expected_gradient in zip(pull(cotangent), expected_pull(cotangent), strict=True):
        assert relative_error(gradient, expected_gradient) <= 2e-6


@pytest.mark.parametrize(("spec", "whole", "backbone"), [
    (VGG16, 138_357_544, 14_714_688),
    (VGG19, 143_667_240, 20_024_384),
])  # fmt: skip
def test_parameter_counts_of_the_paper(spec, whole, backbone):
    shapes = model.abstract_params(ModelSpec(spec, TOP, 224))
    counts = {path: math.prod(leaf.shape) for path, leaf in params.flatten(shapes).items()}
    found = (sum(counts.values()), sum(count for path, count in counts.items() if path.startswith("backbone/")))
    assert found == (whole, backbone)


def test_pooled_heads_take_any_size_from_32_up(small_spec):
    backbone = model.init_backbone(small_spec.backbone, jax.random.key(0))
    for height, width in ((32, 32), (33, 47), (64, 40)):
        blocks = model.bind_backbone(small_spec.backbone, "float32", backbone)(jnp.ones((1, height, width, 3)))
        assert blocks["block5"].shape == (1, height // 32, width // 32, 8)
        assert model.read_blocks(blocks, small_spec.head).shape == (1, small_spec.head_inputs)


def test_bfloat16_computes_low_and_answers_in_float32(small_spec):
    low = dataclasses.replace(small_spec, precision="bfloat16")
    backbone = model.init_backbone(low.backbone, jax.random.key(0))
    head = model.init_head(low, jax.random.key(1))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((backbone, head)))
    images = jax.random.normal(jax.random.key(2), (2, 32, 32, 3))
    blocks = model.bind_backbone(low.backbone, low.precision, backbone)(images)
    exact = model.bind_backbone(small_spec.backbone, "float32", backbone)(images)
    assert blocks["block5"].dtype == jnp.bfloat16
    assert 1e-5 < relative_error(blocks["block1"], exact["block1"]) < 3e-2
    features = model.read_blocks(blocks, small_spec.head)
    assert features.dtype == jnp.float32
    assert model.bind_head(low, head)(features).dtype == jnp.float32


def test_dropout_needs_a_key_and_changes_with_it(small_spec):
    spec = dataclasses.replace(small_spec, head=HeadSpec(3, hidden=(64,), dropout=0.5))
    head = model.init_head(spec, jax.random.key(0))
    head["predictions"]["kernel"] = jax.random.normal(jax.random.key(1), (64, 3))
    features = jax.random.normal(jax.random.key(2), (4, spec.head_inputs))
    run = model.bind_head(spec, head)
    assert (run(features) == run(features)).all()
    assert not (run(features, jax.random.key(3)) == run(features, jax.random.key(4))).all()
    assert not (run(features, jax.random.key(3)) == run(features)).all()
