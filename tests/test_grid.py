"""A grid of heads in one go: each member is what it would be alone, and the best by validation comes first."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vgg_flax import evaluate, grid, training
from vgg_flax.batches import feature_batches, plan_epoch
from vgg_flax.config import Choice, TrainConfig
from vgg_flax.model import HeadSpec, feature_columns

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


def epochs_of(features, labels):
    def batches(epoch):
        plan = plan_epoch(COUNT, BATCH, 1, 0, epoch)
        return feature_batches([(features, np.arange(COUNT))], labels[:COUNT], plan)

    return batches


def test_columns_of_each_block(small_spec):
    sizes = {name: len(feature_columns(small_spec, name)) for name in ("block3", "block4", "block5", "all")}
    assert sizes == {"block3": 8, "block4": 8, "block5": 8, "all": 24}
    assert feature_columns(small_spec, "block4").tolist() == list(range(8, 16))
    alone = dataclasses.replace(small_spec, head=HeadSpec(3, "block4"))
    assert feature_columns(alone, "block4").tolist() == list(range(8))


@pytest.mark.parametrize("k", range(len(CHOICES)))
def test_member_equals_training_it_alone(small_spec, data, k):
    features, labels = data
    constants = training.standardization(features[:COUNT])
    recipe = training.Recipe(small_spec, EPOCHS * -(-COUNT // BATCH), 0.1)
    key = jax.random.key(0)
    val, val_labels = features[COUNT:], labels[COUNT:]
    results = grid.search(recipe, CHOICES, constants, EPOCHS, epochs_of(features, labels), val, val_labels, key)
    found = next(result for result in results if result.choice == CHOICES[k])

    columns = feature_columns(small_spec, CHOICES[k].features)
    alone = dataclasses.replace(recipe, spec=dataclasses.replace(small_spec, head=HeadSpec(3, CHOICES[k].features)))
    predictions = {"kernel": jnp.zeros((len(columns), 3)), "bias": jnp.zeros(3)}
    trained = {"head": {"predictions": predictions}}
    state = training.init_state(alone, trained, CHOICES[k].lr, CHOICES[k].weight_decay)
    frozen = {"head": {"standardize": {name: values[columns] for name, values in constants.items()}}}
    losses = []
    for epoch in range(EPOCHS):
        for batches in epochs_of(features[:, columns], labels)(epoch):
            state, _ = training.train_steps(alone, state, frozen, batches, key)
        head = state["params"]["head"] | frozen["head"]
        logits = np.asarray(training.head_logits(alone.spec, head, val[:, columns]))
        losses.append(evaluate.cross_entropy(logits, val_labels))
    assert found.val_loss == pytest.approx(losses[found.epoch - 1], rel=1e-4)


def test_the_best_by_validation_comes_first(small_spec, data):
    features, labels = data
    recipe = training.Recipe(small_spec, EPOCHS * -(-COUNT // BATCH), 0.1)
    results = grid.search(
        recipe, CHOICES, training.standardization(features[:COUNT]), EPOCHS, epochs_of(features, labels),
        features[COUNT:], labels[COUNT:], jax.random.key(0),
    )  # fmt: skip
    assert len(results) == len(CHOICES)
    assert results[-1].choice.features == "block5"  # noise
    accuracies = [result.val_accuracy for result in results]
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[0] > accuracies[-1]


def test_only_what_was_left_open_is_searched():
    assert len(TrainConfig().choices()) == 36
    assert {choice.features for choice in TrainConfig(features="block4").choices()} == {"block4"}
    assert {choice.lr for choice in TrainConfig(lr=0.5).choices()} == {0.5}
    for config in (TrainConfig(head="mlp"), TrainConfig(head="notebook"), TrainConfig(unfreeze="all")):
        assert len(config.choices()) == 1
    assert TrainConfig().chosen(CHOICES[0]).choices() == [CHOICES[0]]
