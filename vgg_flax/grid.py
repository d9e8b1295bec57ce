"""Many linear heads trained at once on the same features; validation picks one.

A member of the grid is a choice of block outputs, a learning rate and a weight decay. All members are one `vmap` over
the training state, and a member that reads fewer features sees zeros in place of the others: with a zero start it
learns exactly what it would learn alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vgg_flax import training
from vgg_flax.batches import Batches
from vgg_flax.checkpoint import rank
from vgg_flax.config import Choice
from vgg_flax.evaluate import cross_entropy
from vgg_flax.model import feature_columns
from vgg_flax.params import Params


@dataclasses.dataclass(frozen=True)
class Result:
    """A member and its best epoch by validation."""

    choice: Choice
    epoch: int
    val_accuracy: float
    val_loss: float

    def row(self) -> tuple[Any, ...]:
        """A line of search.csv, see COLUMNS."""
        return (*dataclasses.astuple(self.choice), self.epoch, f"{self.val_accuracy:.6g}", f"{self.val_loss:.6g}")


COLUMNS = ("features", "lr", "weight_decay", "epoch", "val_accuracy", "val_loss")


def search(
    recipe: training.Recipe,
    choices: list[Choice],
    standardize: Params,
    epochs: int,
    epoch_batches: Callable[[int], Iterator[Batches]],
    val_features: np.ndarray,
    val_labels: np.ndarray,
    key: jax.Array,
    check: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Train a linear head for every choice and return them all, the best first.

    Args:
      recipe: of a head without hidden layers that reads all features.
      standardize: mean and std of all features, `[n]` each.
      val_features: float32 `[m, n]`.
      val_labels: int `[m]`.
      check: called after each epoch; may raise to stop.
    """
    zeros = jnp.zeros((len(choices), val_features.shape[1], recipe.spec.head.classes))
    trainable = {"head": {"predictions": {"kernel": zeros, "bias": zeros[:, 0]}}}
    rates, decays = (jnp.array([getattr(choice, name) for choice in choices]) for name in ("lr", "weight_decay"))
    states = jax.vmap(functools.partial(training.init_state, recipe))(trainable, rates, decays)
    frozen = _standardize_each(recipe, choices, standardize)
    best: list[Result | None] = [None] * len(choices)
    for epoch in range(1, epochs + 1):
        for batches in epoch_batches(epoch - 1):
            states = _train_all(recipe, states, frozen, batches, key)
        logits = np.asarray(_logits_of_all(recipe, states["params"], frozen, val_features))
        for k, (choice, mine) in enumerate(zip(choices, logits, strict=True)):
            accuracy = float((mine.argmax(-1) == val_labels).mean())
            result = Result(choice, epoch, accuracy, cross_entropy(mine, val_labels))
            before = best[k]
            if before is None or _rank(result, len(val_labels)) > _rank(before, len(val_labels)):
                best[k] = result
        check()
    return sorted((result for result in best if result), key=lambda one: _rank(one, len(val_labels)), reverse=True)


def _rank(result: Result, count: int) -> float:
    return rank({"val_accuracy": result.val_accuracy, "val_loss": result.val_loss, "val_count": count})


def _standardize_each(recipe: training.Recipe, choices: list[Choice], standardize: Params) -> Params:
    """The constants once for each member; an infinite deviation turns a feature into a zero."""
    std = np.full((len(choices), len(standardize["std"])), np.inf, np.float32)
    for row, choice in zip(std, choices, strict=True):
        columns = feature_columns(recipe.spec, choice.features)
        row[columns] = standardize["std"][columns]
    mean = jnp.broadcast_to(standardize["mean"], std.shape)
    return {"head": {"standardize": {"mean": mean, "std": jnp.asarray(std)}}}


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _train_all(recipe: training.Recipe, states: Any, frozen: Params, batches: Batches, key: jax.Array) -> Any:
    return jax.vmap(lambda state, constants: training.train_steps(recipe, state, constants, batches, key)[0])(
        states, frozen
    )


@functools.partial(jax.jit, static_argnums=0)
def _logits_of_all(recipe: training.Recipe, trained: Params, frozen: Params, features: jax.Array) -> jax.Array:
    def one(mine: Params, constants: Params) -> jax.Array:
        return training.head_logits(recipe.spec, mine["head"] | constants["head"], features)

    return jax.vmap(one)(trained, frozen)
