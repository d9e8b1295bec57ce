"""Training: what changes, what must not, and that every picture counts once."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vgg_flax.network import model, params
from vgg_flax.network.preprocess import normalize
from vgg_flax.network.spec import HeadSpec
from vgg_flax.training import task as training
from vgg_flax.training.feed import Batches, all_at_once, chunks, feature_batches, image_batches, plan_epoch

LR, DECAY = 1e-2, 1e-2


def recipe(spec, inputs="features", steps=10, warmup=0.1):
    return training.Recipe(spec, steps, warmup, inputs)


def network(spec):
    """Fresh copies: a training step takes the arrays it is given for its own."""
    backbone, head = model.init_backbone(spec, jax.random.key(0)), model.init_head(spec, jax.random.key(1))
    return jax.tree.map(jnp.copy, {"backbone": backbone, "head": head})


def feature_data(spec, steps=3, batch=8):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (steps, batch)).astype(np.int32)
    inputs = rng.normal(size=(steps, batch, spec.head_inputs)).astype(np.float32) + labels[..., None]
    return Batches(inputs, labels, np.ones((steps, batch), np.float32))


def run(spec, unfreeze, data, inputs="features"):
    trainable, frozen = params.partition(network(spec), training.TRAINABLE[unfreeze])
    how = recipe(spec, inputs)
    return training.train_steps(how, training.init_state(how, trainable, LR, DECAY), frozen, data, jax.random.key(0))


@pytest.mark.parametrize(("unfreeze", "inputs", "moves"), [
    ("none", "images", r"head/predictions"),
    ("block5", "block4", r"head/predictions|backbone/block5"),
    ("block5", "images", r"head/predictions|backbone/block5"),
    ("all", "images", r"head/predictions|backbone"),
])  # fmt: skip
def test_frozen_parameters_stay_bit_identical(small_spec, unfreeze, inputs, moves):
    small_spec = dataclasses.replace(small_spec, head=HeadSpec(3, "block5"))
    rng = np.random.default_rng(0)
    shape = (2, 8, 2, 2, 8) if inputs == "block4" else (2, 8, 32, 32, 3)
    values = rng.uniform(-100, 100, shape).astype(np.float32)
    data = Batches(values, rng.integers(0, 3, (2, 8)).astype(np.int32), np.ones((2, 8), np.float32))
    before = params.flatten(network(small_spec))
    # Biases of ReLU units that are dead on these pictures have no gradient; kernels decay and so always move.
    state, _ = run(small_spec, unfreeze, data, inputs)
    after = params.flatten(state["params"])
    expected, _ = params.partition(network(small_spec), moves)
    assert after.keys() == params.flatten(expected).keys()
    assert all((after[path] != before[path]).any() for path in after if path.endswith("kernel"))


def lowered(spec, unfreeze, inputs, shape):
    """The text of one training step before XLA sees it."""
    data = Batches(jnp.ones((1, 2, *shape)), jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2)))
    trainable, frozen = params.partition(network(spec), training.TRAINABLE[unfreeze])
    how = recipe(spec, inputs)
    state = training.init_state(how, trainable, LR, DECAY)
    return training.train_steps.lower(how, state, frozen, data, jax.random.key(0)).as_text()


def test_only_the_trained_part_is_differentiated(small_spec):
    # 13 forward; a backward pass adds a filter gradient per trained layer and an input gradient between them.
    for unfreeze, count in {"none": 13, "block5": 18, "all": 38}.items():
        assert lowered(small_spec, unfreeze, "images", (32, 32, 3)).count("stablehlo.convolution") == count
    # From block4's output 3 are left forward, 5 backward, and all of them are products of matrices.
    spec = dataclasses.replace(small_spec, head=HeadSpec(3, "block5"))
    text = lowered(spec, "block5", "block4", (2, 2, 8))
    assert "stablehlo.convolution" not in text
    assert text.count("batching_dims = [0] x [0]") == 8


def test_no_loop_stands_around_convolutions(small_spec):
    # XLA would leave their gradients in a form that takes a CPU minutes a step.
    assert "stablehlo.while" in lowered(small_spec, "none", "features", (small_spec.head_inputs,))
    assert "stablehlo.while" not in lowered(small_spec, "all", "images", (32, 32, 3))


def test_padding_counts_nowhere(small_spec):
    data = feature_data(small_spec, steps=1)
    padded = Batches(
        np.concatenate([data.inputs, np.full_like(data.inputs, 50)], axis=1),
        np.concatenate([data.labels, np.zeros_like(data.labels)], axis=1),
        np.concatenate([data.weights, np.zeros_like(data.weights)], axis=1),
    )
    (one, sums), (two, padded_sums) = run(small_spec, "none", data), run(small_spec, "none", padded)
    assert float(sums["count"]) == float(padded_sums["count"]) == 8
    for a, b in zip(jax.tree.leaves(one["params"]), jax.tree.leaves(two["params"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_scan_over_steps_equals_the_steps_one_by_one(small_spec):
    data, how, key = feature_data(small_spec), recipe(small_spec), jax.random.key(0)

    def start():
        parts = params.partition({"head": network(small_spec)["head"]}, training.TRAINABLE["none"])
        return training.init_state(how, parts[0], LR, DECAY), parts[1]

    state, frozen = start()
    together, _ = training.train_steps(how, state, frozen, data, key)
    state, frozen = start()
    for i in range(3):
        one = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], data)
        state, _ = training.train_steps(how, state, frozen, one, key)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_weight_decay_touches_kernels_only(small_spec):
    trainable, _ = params.partition({"head": network(small_spec)["head"]}, training.TRAINABLE["none"])
    trainable["head"]["predictions"]["kernel"] += 1.0
    trainable["head"]["predictions"]["bias"] += 1.0
    optimizer = training.make_optimizer(recipe(small_spec, warmup=0.0), jnp.float32(LR), jnp.float32(0.5))
    zeros = jax.tree.map(jnp.zeros_like, trainable)
    updates, _ = optimizer.update(zeros, optimizer.init(trainable), trainable)
    assert (updates["head"]["predictions"]["kernel"] < 0).all()
    assert (updates["head"]["predictions"]["bias"] == 0).all()


def test_backbone_learns_at_a_tenth_of_the_head(small_spec):
    trainable, _ = params.partition(network(small_spec), training.TRAINABLE["block5"])
    optimizer = training.make_optimizer(recipe(small_spec, warmup=0.0), jnp.float32(LR), jnp.float32(0.0))
    ones = jax.tree.map(jnp.ones_like, trainable)
    updates, _ = optimizer.update(ones, optimizer.init(trainable), trainable)
    flat = params.flatten(updates)
    ratio = flat["backbone/block5_conv1/bias"][0] / flat["head/predictions/bias"][0]
    assert float(ratio) == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0.1), (2, 0.5), (100, 0.1), (100, 0.0)])
def test_schedule_rises_to_its_peak_and_ends_near_zero(steps, warmup):
    how = training.Recipe(None, steps, warmup)  # the network does not matter here
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


@pytest.mark.parametrize(("count", "batch"), [(1, 4), (8, 4), (10, 4), (3, 64)])
def test_an_epoch_shows_every_picture_once(count, batch):
    plan = plan_epoch(count, batch, views=3, seed=5, epoch=2)
    assert plan.indices.shape == plan.views.shape == plan.weights.shape == (-(-count // batch), batch)
    assert sorted(plan.indices[plan.weights == 1]) == list(range(count))
    assert set(np.unique(plan.views)) <= {0, 1, 2}


def test_epochs_differ_and_repeat_with_the_seed():
    plans = [plan_epoch(50, 8, 2, seed, epoch).indices for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert (plans[0] == plans[3]).all()
    assert (plans[0] != plans[1]).any() and (plans[0] != plans[2]).any()


@pytest.mark.parametrize("shape", [(4,), (2, 2, 1)])
def test_feature_batches_pick_the_view_that_the_plan_says(shape):
    rng = np.random.default_rng(0)
    clean, random = (rng.normal(size=(count, *shape)).astype(np.float32) for count in (9, 5))
    rows = np.array([8, 2, 4, 6, 0])  # the training pictures among all nine
    plan = plan_epoch(5, 2, views=2, seed=0, epoch=0)
    labels = np.arange(5, dtype=np.int32)
    parts = list(feature_batches([(clean, rows), (random, np.arange(5))], labels, plan, chunk_bytes=2 * 4 * 4))
    assert len(parts) == 3  # a chunk for every step: so small is the limit, and maps come one step at a time anyway
    for k, chunk in enumerate(parts):
        for j in range(2):
            index = plan.indices[k, j]
            expected = random[index] if plan.views[k, j] else clean[rows[index]]
            np.testing.assert_array_equal(chunk.inputs[0, j], expected)
            assert chunk.labels[0, j] == labels[index]


@pytest.mark.parametrize(("rows", "size", "pieces"), [(7, 3, 3), (6, 3, 2), (2, 3, 1)])
def test_chunks_have_one_length_and_lose_nothing(rows, size, pieces):
    found = list(chunks(10 + np.arange(rows), size))
    assert len(found) == pieces
    assert len({len(piece) for piece, _ in found}) <= 1
    np.testing.assert_array_equal([row for piece, count in found for row in piece[:count]], 10 + np.arange(rows))


@pytest.mark.parametrize("unfreeze", ["none", "block5"])
def test_training_from_what_is_stored_equals_training_from_pictures(small_spec, preprocessing, unfreeze):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (12, 32, 32, 3), np.uint8), rng.integers(0, 3, 12).astype(np.int32)
    spec = small_spec if unfreeze == "none" else dataclasses.replace(small_spec, head=HeadSpec(3, "block5"))
    whole = network(spec)
    whole["head"]["predictions"]["kernel"] += rng.normal(size=(spec.head_inputs, 3)).astype(np.float32)
    blocks = model.bind_backbone(spec, whole["backbone"])(normalize(images, preprocessing))
    stored = np.asarray(model.gather_features(blocks, "all") if unfreeze == "none" else blocks["block4"])
    plan, rows = plan_epoch(12, 5, views=1, seed=0, epoch=0), np.arange(12)

    def losses_and_moments(inputs):
        trainable, frozen = params.partition(jax.tree.map(jnp.copy, whole), training.TRAINABLE[unfreeze])
        how = recipe(spec, inputs)
        state, losses = training.init_state(how, trainable, LR, DECAY), []
        if inputs == "images":
            epoch = image_batches(
                images, rows, labels, plan, lambda batch, keys: normalize(batch, preprocessing), view=0, seed=0
            )
        else:
            epoch = feature_batches([(stored, rows)], labels, plan, chunk_bytes=0)
        for data in epoch:
            state, sums = training.train_steps(how, state, frozen, data, jax.random.key(0))
            losses.append(float(sums["loss"]))
        return losses, jax.tree.leaves(state["opt_state"])

    (losses, moments), (expected_losses, expected_moments) = map(
        losses_and_moments, (training.INPUTS[unfreeze], "images")
    )
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    # Adam's moments are running means of the gradients and their squares.
    for found, expected in zip(moments, expected_moments, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_gradients_from_block4_equal_those_from_images(small_spec, preprocessing):
    rng = np.random.default_rng(0)
    images = normalize(rng.integers(0, 256, (6, 32, 32, 3), np.uint8), preprocessing)
    spec = dataclasses.replace(small_spec, head=HeadSpec(3, "block5"))
    whole = network(spec)
    whole["head"]["predictions"]["kernel"] += rng.normal(size=(8, 3)).astype(np.float32)
    maps = model.bind_backbone(spec, whole["backbone"])(images)["block4"]
    trainable, frozen = params.partition(whole, training.TRAINABLE["block5"])

    def loss(trained, inputs, batch):
        together = params.combine(trained, frozen)
        logits = training.head_logits(spec, together["head"], training.head_features(spec, inputs, together, batch))
        return training.score(logits, jnp.array([0, 1, 2, 0, 1, 2]), jnp.ones(6))["loss"]

    ours, reference = (jax.grad(loss)(trainable, *given) for given in (("block4", maps), ("images", images)))
    for path, expected in params.flatten(reference).items():
        assert (np.abs(expected) > 0).any(), path
        np.testing.assert_allclose(params.flatten(ours)[path], expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_adamw_agrees_with_a_plain_numpy_step(small_spec):
    kernel, gradient = np.array([[0.5, -0.25]]), np.array([[0.2, -0.4]])
    how = recipe(small_spec, steps=1000, warmup=0.0)
    optimizer = training.make_optimizer(how, jnp.float32(0.1), jnp.float32(0.01))
    trained = {"head": {"predictions": {"kernel": jnp.asarray(kernel)}}}
    updates, _ = optimizer.update(
        {"head": {"predictions": {"kernel": jnp.asarray(gradient)}}}, optimizer.init(trained), trained
    )
    stepped = optax.apply_updates(trained, updates)["head"]["predictions"]["kernel"]
    # The first Adam step is the gradient's sign; decoupled decay is added to it (Loshchilov and Hutter, 2019).
    expected = kernel - 0.1 * (gradient / (np.abs(gradient) + 1e-8) + 0.01 * kernel)
    np.testing.assert_allclose(stepped, expected, rtol=1e-5)


def test_lbfgs_finds_the_minimum_that_scikit_learn_finds(small_spec):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 60).astype(np.int32)
    features = rng.normal(size=(60, small_spec.head_inputs)).astype(np.float32) + labels[:, None] / 2
    decay = 0.05
    how = training.Recipe(small_spec, 60, 0.1, solver="lbfgs")
    start = {"predictions": {"kernel": jnp.zeros((small_spec.head_inputs, 3)), "bias": jnp.zeros(3)}}
    constants = {"mean": jnp.zeros(small_spec.head_inputs), "std": jnp.ones(small_spec.head_inputs)}
    state = training.init_state(how, {"head": start}, 1.0, decay)
    data = all_at_once([(features, np.arange(60))], labels)
    for _ in range(60):
        state, _ = training.train_steps(how, state, {"head": {"standardize": constants}}, data, jax.random.key(0))
    # scikit-learn minimises C * (sum of losses) + |W|^2 / 2; ours is (mean of losses) + decay * |W|^2 / 2.
    theirs = LogisticRegression(C=1 / (60 * decay), tol=1e-8, max_iter=5000).fit(features, labels)
    np.testing.assert_allclose(state["params"]["head"]["predictions"]["kernel"], theirs.coef_.T, atol=2e-3)
