"""A grid of heads in one go: each member is what it would be alone, and the best by validation comes first."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from vgg_flax.answers.scores import cross_entropy

from vgg_flax import grid
from vgg_flax.network.spec import HeadSpec, feature_columns
from vgg_flax.settings import Choice, TrainSettings
from vgg_flax.training import task as training
from vgg_flax.training.feed import all_at_once, feature_batches, plan_epoch

EPOCHS, COUNT, BATCH = 4, 50, 8
CHOICES = [Choice("block4", 1e-2, 1e-4), Choice("all", 1e-1, 1.0), Choice("block5", 1e-2, 1e-2)]


@pytest.fixture
def data(small_spec):
    """Features of three classes that only block4's columns tell apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, COUNT + 30).astype(np.int32)
    features = rng.normal(size=(COUNT + 30, small_spec.head_inputs)).astype(np.float32)
    columns = feature_columns(small_spec, "block4")
    features[:, columns[:3]] += 3 * np.eye(3)[labels]
    return features, labels


def epochs_of(features, labels, solver="adamw"):
    view = features, np.arange(COUNT)

    def epoch_batches(epoch):
        if solver == "lbfgs":
            return iter([all_at_once([view], labels[:COUNT])])
        return feature_batches([view], labels[:COUNT], plan_epoch(COUNT, BATCH, 1, 0, epoch))

    return epoch_batches


def recipe_of(spec, solver: Any = "adamw"):
    return training.Recipe(spec, EPOCHS * -(-COUNT // BATCH), 0.1, solver=solver)


def search(spec, data, choices, solver="adamw"):
    features, labels = data
    constants = training.standardization(features[:COUNT])
    batches = epochs_of(features, labels, solver)
    return grid.search(recipe_of(spec, solver), choices, constants, EPOCHS, batches, features[COUNT:], labels[COUNT:])


def test_columns_of_each_block(small_spec):
    sizes = {name: len(feature_columns(small_spec, name)) for name in ("block3", "block4", "block5", "all")}
    assert sizes == {"block3": 8, "block4": 8, "block5": 8, "all": 24}
    assert feature_columns(small_spec, "block4").tolist() == list(range(8, 16))
    alone = dataclasses.replace(small_spec, head=HeadSpec(3, "block4"))
    assert feature_columns(alone, "block4").tolist() == list(range(8))


@pytest.mark.parametrize("k", range(len(CHOICES)))
@pytest.mark.parametrize("solver", ["adamw", "lbfgs"])
def test_member_equals_training_it_alone(small_spec, data, solver, k):
    features, labels = data
    choice, (val, val_labels) = CHOICES[k], (features[COUNT:], labels[COUNT:])
    found = next(result for result in search(small_spec, data, CHOICES, solver) if result.choice == choice)

    columns = feature_columns(small_spec, choice.features)
    alone = recipe_of(dataclasses.replace(small_spec, head=HeadSpec(3, choice.features)), solver)
    predictions = {"kernel": jnp.zeros((len(columns), 3)), "bias": jnp.zeros(3)}
    state = training.init_state(alone, {"head": {"predictions": predictions}}, choice.lr, choice.weight_decay)
    constants = training.standardization(features[:COUNT])
    frozen = {"head": {"standardize": {name: values[columns] for name, values in constants.items()}}}
    losses, accuracies = [], []
    for epoch in range(EPOCHS):
        for batches in epochs_of(features[:, columns], labels, solver)(epoch):
            state, _ = training.train_steps(alone, state, frozen, batches, jax.random.key(0))
        logits = np.asarray(training.head_logits(alone.spec, state["params"]["head"] | frozen["head"], val[:, columns]))
        losses.append(cross_entropy(logits, val_labels))
        accuracies.append((logits.argmax(-1) == val_labels).mean())
    best = max(range(EPOCHS), key=lambda epoch: (accuracies[epoch], -losses[epoch]))
    assert (found.epoch, found.val_accuracy) == (best + 1, accuracies[best])
    assert found.val_loss == pytest.approx(losses[best], rel=1e-6)


def test_the_best_by_validation_comes_first(small_spec, data):
    results = search(small_spec, data, CHOICES)
    assert len(results) == len(CHOICES)
    assert results[-1].choice.features == "block5"  # noise
    accuracies = [result.val_accuracy for result in results]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[0] > accuracies[-1]


def test_a_head_that_diverges_comes_last(small_spec, data):
    """NumPy and JAX say that the largest of logits that are not numbers is class 0, which here is right every time."""
    features, labels = data
    labels[COUNT:] = 0
    wild = Choice("block4", 1e38, 1e-4)
    assert [result.choice for result in search(small_spec, (features, labels), [wild, *CHOICES])][-1] == wild


@pytest.mark.parametrize("solver", ["adamw", "lbfgs"])
def test_members_share_the_inputs(small_spec, data, solver):
    """A copy of the batch for each member makes the grid as slow as training one head after the other."""
    features, labels = data
    batches = next(epochs_of(features, labels, solver)(0))
    recipe = recipe_of(small_spec, solver)
    some = np.ones(len(CHOICES))
    states = grid._init_all(recipe, some, some, grid._reads(recipe, CHOICES))
    program = grid._train_all.lower(recipe, states, training.standardization(features), batches).as_text()
    _, batch, width = batches.inputs.shape
    assert f"tensor<{batch}x{width}xf32>" in program
    assert f"tensor<{len(CHOICES)}x{batch}x{width}xf32>" not in program


def test_only_what_was_left_open_is_searched():
    assert len(TrainSettings().choices()) == 36
    assert {choice.features for choice in TrainSettings(features="block4").choices()} == {"block4"}
    assert {choice.lr for choice in TrainSettings(lr=0.5).choices()} == {0.5}
    for config in (TrainSettings(head="mlp"), TrainSettings(head="notebook"), TrainSettings(unfreeze="all")):
        assert len(config.choices()) == 1
    assert TrainSettings().chosen(CHOICES[0]).choices() == [CHOICES[0]]
