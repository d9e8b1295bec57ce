"""Training by AdamW: what changes, what must not, and that every picture counts once."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vgg_flax.network import model, params
from vgg_flax.network.extract import Extractor
from vgg_flax.network.preprocess import normalize
from vgg_flax.network.spec import CUTS, HeadSpec
from vgg_flax.training import task as training
from vgg_flax.training.feed import Batches
from vgg_flax.training.task import Recipe, Task

LR, DECAY = 1e-2, 1e-2


def make_task(spec, unfreeze="none", steps=10, warmup=0.1, lr=LR, decay=DECAY):
    return Task(spec, CUTS[unfreeze], Recipe(steps, lr, decay, warmup))


def network(spec):
    """Fresh copies: a training step takes the arrays it is given for its own."""
    backbone, head = model.init_backbone(spec.backbone, jax.random.key(0)), model.init_head(spec, jax.random.key(1))
    return jax.tree.map(jnp.copy, {"backbone": backbone, "head": head})


def reading_block5(spec):
    return dataclasses.replace(spec, head=HeadSpec(3, (5,)))


def feature_data(spec, steps=3, batch=8):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (steps, batch)).astype(np.int32)
    inputs = rng.normal(size=(steps, batch, spec.head_inputs)).astype(np.float32) + labels[..., None]
    return Batches(inputs, labels, np.ones((steps, batch), np.float32))


def run(spec, unfreeze, data):
    task = make_task(spec, unfreeze)
    state, frozen = task.init(network(spec))
    return task.step(state, frozen, data, jax.random.key(0))


def picture_data(what, steps=2):
    rng = np.random.default_rng(0)
    shape = {"pooled": (48,), "block4": (2, 2, 8), "images": (32, 32, 3)}[what]
    values = rng.uniform(-100, 100, (steps, 8, *shape)).astype(np.float32)
    return Batches(values, rng.integers(0, 3, (steps, 8)).astype(np.int32), np.ones((steps, 8), np.float32))


@pytest.mark.parametrize(("unfreeze", "what", "moves"), [
    ("none", "pooled", ("head/predictions",)),
    ("block5", "block4", ("head/predictions", "backbone/block5")),
    ("all", "images", ("head/predictions", "backbone")),
])  # fmt: skip
def test_frozen_parameters_stay_bit_identical(small_spec, unfreeze, what, moves):
    spec = reading_block5(small_spec)
    before = params.flatten(network(spec))
    # Biases of ReLU units that are dead on these pictures have no gradient; kernels decay and so always move.
    state, _ = run(spec, unfreeze, picture_data(what))
    after = params.flatten(state.params)
    assert after.keys() == {path for path in before if path.startswith(moves)}
    assert all((after[path] != before[path]).any() for path in after if path.endswith("kernel"))


def lowered(spec, unfreeze):
    """The text of one training step before XLA sees it."""
    task = make_task(spec, unfreeze)
    state, frozen = task.init(network(spec))
    return training.train_steps.lower(task, state, frozen, picture_data(task.what, 1), jax.random.key(0)).as_text()


def test_only_the_trained_part_is_differentiated(small_spec):
    # 13 forward; a backward pass adds a filter gradient per layer and an input gradient between them.
    assert lowered(small_spec, "none").count("stablehlo.convolution") == 0
    assert lowered(small_spec, "all").count("stablehlo.convolution") == 38
    # From block4's output 3 are left forward, 5 backward, and all of them are products of matrices.
    text = lowered(reading_block5(small_spec), "block5")
    assert "stablehlo.convolution" not in text
    assert text.count("batching_dims = [0] x [0]") == 8


def test_no_loop_stands_around_convolutions(small_spec):
    # XLA would leave their gradients in a form that takes a CPU minutes a step.
    assert "stablehlo.while" in lowered(small_spec, "none")
    assert "stablehlo.while" not in lowered(small_spec, "all")


def test_padding_counts_nowhere(small_spec):
    data = feature_data(small_spec, steps=1)
    padded = Batches(
        np.concatenate([data.inputs, np.full_like(data.inputs, 50)], axis=1),
        np.concatenate([data.labels, np.zeros_like(data.labels)], axis=1),
        np.concatenate([data.weights, np.zeros_like(data.weights)], axis=1),
    )
    (one, sums), (two, padded_sums) = run(small_spec, "none", data), run(small_spec, "none", padded)
    assert float(sums["count"]) == float(padded_sums["count"]) == 8
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(two.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_scan_over_steps_equals_the_steps_one_by_one(small_spec):
    data, task, key = feature_data(small_spec), make_task(small_spec), jax.random.key(0)
    state, frozen = task.init(network(small_spec))
    together, _ = task.step(state, frozen, data, key)
    state, frozen = task.init(network(small_spec))
    for i in range(3):
        one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], data)
        state, _ = task.step(state, frozen, one, key)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def first_updates(task, trained, gradients):
    optimizer = training.make_optimizer(task)
    return params.flatten(optimizer.update(gradients, optimizer.init(trained), trained)[0])


def test_weight_decay_touches_kernels_only(small_spec):
    trained = {"head": {"predictions": {"kernel": jnp.ones((48, 3)), "bias": jnp.ones(3)}}}
    updates = first_updates(
        make_task(small_spec, warmup=0.0, decay=0.5), trained, jax.tree.map(jnp.zeros_like, trained)
    )
    assert (updates["head/predictions/kernel"] < 0).all()
    assert (updates["head/predictions/bias"] == 0).all()


def test_backbone_learns_at_a_tenth_of_the_head(small_spec):
    task = make_task(reading_block5(small_spec), "block5", warmup=0.0, decay=0.0)
    trained = task.init(network(task.spec))[0].params
    flat = first_updates(task, trained, jax.tree.map(jnp.ones_like, trained))
    ratio = flat["backbone/block5_conv1/bias"][0] / flat["head/predictions/bias"][0]
    assert float(ratio) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.1), (2, 0.5), (100, 0.1), (100, 0.0)])
def test_schedule_rises_to_its_peak_and_ends_near_zero(steps, warmup):
    how = Recipe(steps, LR, DECAY, warmup)
    rates = np.array([float(training.learning_rate(how, i)) for i in range(steps + 1)])
    assert np.isfinite(rates).all()
    assert rates[-1] < 0.05
    if steps == 100:
        assert rates.argmax() == (10 if warmup else 0) and rates.max() == pytest.approx(1.0)


def test_score_is_a_sum_under_weights():
    logits = jnp.array([[2.0, 0.0], [0.0, 2.0], [5.0, -5.0]])
    labels, weights = jnp.array([0, 0, 1]), jnp.array([1.0, 1.0, 0.0])
    sums = training.score(logits, labels, weights)
    expected = math.log1p(math.exp(-2)) + math.log1p(math.exp(2))
    assert float(sums["loss"]) == pytest.approx(expected, rel=1e-5)
    assert (float(sums["correct"]), float(sums["count"])) == (1, 2)


def test_standardization_survives_dead_and_rare_features():
    features = np.zeros((100, 3), np.float32)
    features[:, 0] = np.random.default_rng(0).normal(5, 2, 100)
    features[0, 1] = 1e-6
    constants = training.standardization(features)
    assert np.isfinite(constants["std"]).all() and float(constants["std"].min()) > 1e-3
    assert float(constants["mean"][0]) == pytest.approx(features[:, 0].mean(), rel=1e-5)
    assert (training.standardization(np.zeros((4, 2), np.float32))["std"] == 1).all()


def test_gradients_from_block4_equal_those_from_images(small_spec, preprocessing):
    rng = np.random.default_rng(0)
    images = normalize(rng.integers(0, 256, (6, 32, 32, 3), np.uint8), preprocessing)
    spec = reading_block5(small_spec)
    whole = network(spec)
    whole["head"]["predictions"]["kernel"] += rng.normal(size=(16, 3)).astype(np.float32)
    maps = model.bind_backbone(spec.backbone, "float32", whole["backbone"])(images)["block4"]
    trained, frozen = params.partition(whole, lambda path: CUTS["block5"].rate(path) is not None)

    def loss(trained, what, inputs):
        logits = training.network_logits(spec, what, params.combine(trained, frozen), inputs)
        return training.score(logits, jnp.array([0, 1, 2, 0, 1, 2]), jnp.ones(6))["loss"]

    ours, reference = (jax.grad(loss)(trained, *given) for given in (("block4", maps), ("images", images)))
    for path, expected in params.flatten(reference).items():
        assert (np.abs(expected) > 0).any(), path
        np.testing.assert_allclose(params.flatten(ours)[path], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_logits_from_pooled_rows_equal_those_from_images(small_spec, preprocessing):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 32, 32, 3), np.uint8)
    for head in (HeadSpec(3), HeadSpec(3, (4, 5), ("maximum",)), HeadSpec(3, (5,), ("average",))):
        spec = dataclasses.replace(small_spec, head=head)
        whole = network(spec)
        whole["head"]["predictions"]["kernel"] += rng.normal(size=(spec.head_inputs, 3)).astype(np.float32)
        extract = Extractor(spec.backbone, jax.tree.map(np.asarray, whole["backbone"]), preprocessing, engine="xla")
        ours = training.network_logits(spec, "pooled", whole, extract(images)["pooled"])
        reference = training.network_logits(spec, "images", whole, normalize(images, preprocessing))
        np.testing.assert_allclose(ours, reference, rtol=1e-3, atol=1e-3)


def test_adamw_agrees_with_a_plain_numpy_step(small_spec):
    kernel, gradient = np.array([[0.5, -0.25]]), np.array([[0.2, -0.4]])
    task = make_task(small_spec, steps=1000, warmup=0.0, lr=0.1, decay=0.01)
    trained = {"head": {"predictions": {"kernel": jnp.asarray(kernel)}}}
    updates = first_updates(task, trained, {"head": {"predictions": {"kernel": jnp.asarray(gradient)}}})
    stepped = optax.apply_updates(jnp.asarray(kernel), updates["head/predictions/kernel"])
    # The first Adam step is the gradient's sign; decoupled decay is added to it (Loshchilov and Hutter, 2019).
    expected = kernel - 0.1 * (gradient / (np.abs(gradient) + 1e-8) + 0.01 * kernel)
    np.testing.assert_allclose(stepped, expected, rtol=1e-5)


@pytest.mark.parametrize("name", CUTS)
def test_every_parameter_is_covered_by_its_cut(small_spec, name):
    rates = {path: CUTS[name].rate(path) for path in params.flatten(network(small_spec))}
    assert rates["head/standardize/mean"] is None and rates["head/predictions/kernel"] == 1.0
    trained = {path.split("_")[0] for path, rate in rates.items() if path.startswith("backbone") and rate == 0.1}
    blocks = {"none": (), "block5": (5,), "all": (1, 2, 3, 4, 5)}[name]
    assert trained == {f"backbone/block{i}" for i in blocks}
    with pytest.raises(ValueError, match=r"no pattern of .* covers parameter tail/kernel"):
        CUTS[name].rate("tail/kernel")
