"""Many linear heads trained at once on the same features; validation picks one.

A member of the grid is a choice of block outputs, a learning rate and a weight decay. Batches are standardised once for
all members and their products are one: pictures by features times features by members and classes. The kernel of a
member that reads fewer features is zero at the others: with a zero start it learns exactly what it would learn alone.
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

    def standing(result: Result) -> float:
        loss, accuracy = result.val_loss, result.val_accuracy
        return rank({"val_accuracy": accuracy, "val_loss": loss, "val_count": len(val_labels)})

    states, val_inputs = _init_all(recipe, choices, val_features.shape[1]), _standardized(standardize, val_features)
    log: list[list[Result]] = []
    for epoch in range(1, epochs + 1):
        for batches in epoch_batches(epoch - 1):
            states = _train_all(recipe, states, standardize, batches)
        sums = _validate_all(states, val_inputs, val_labels)
        accuracies, losses = (np.asarray(sums[name], np.float64) / len(val_labels) for name in ("correct", "loss"))
        log.append([Result(choice, epoch, float(accuracies[k]), float(losses[k])) for k, choice in enumerate(choices)])
        check()
    return sorted((max(mine, key=standing) for mine in zip(*log, strict=True)), key=standing, reverse=True)


def _init_all(recipe: training.Recipe, choices: list[Choice], width: int) -> training.State:
    """The states of all members, stacked, and which features each `reads`: float32 `[members, width]`, 1 or 0.

    Kernels lie `[classes, width]`: the optimiser, which takes longest, runs along the features.
    """
    kernels = jnp.zeros((len(choices), recipe.spec.head.classes, width))
    trainable = {"head": {"predictions": {"kernel": kernels, "bias": kernels[..., 0]}}}
    rates, decays = (jnp.array([getattr(choice, name) for choice in choices]) for name in ("lr", "weight_decay"))
    reads = [np.isin(np.arange(width), feature_columns(recipe.spec, choice.features)) for choice in choices]
    states = jax.jit(jax.vmap(functools.partial(training.init_state, recipe)))(trainable, rates, decays)
    return states | {"reads": jnp.asarray(np.stack(reads), jnp.float32)}


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _train_all(recipe: training.Recipe, states: training.State, standardize: Params, batches: Batches) -> Any:
    def one(state: training.State) -> training.State:
        def loss_of(batch: Batches, step: jax.Array) -> training.Loss:
            inputs = _standardized(standardize, batch.inputs)
            return lambda trainable: training.mean_loss(_logits(trainable, state["reads"], inputs), batch)

        return training.optimize(recipe, loss_of, state, batches)[0]

    if recipe.solver == "lbfgs":  # one after the other: a vmap of line searches copies the inputs for each of them
        return jax.lax.map(one, states)
    return jax.vmap(one)(states)


@jax.jit
def _validate_all(states: training.State, inputs: jax.Array, labels: jax.Array) -> Any:
    """The sums of `training.score`, `[members]` each."""

    def one(trained: Params, reads: jax.Array) -> dict[str, jax.Array]:
        return training.score(_logits(trained, reads, inputs), labels, jnp.ones(len(labels)))

    return jax.vmap(one)(states["params"], states["reads"])


def _standardized(constants: Params, features: Any) -> jax.Array:
    return (features - constants["mean"]) / constants["std"]


def _logits(trained: Params, reads: jax.Array, inputs: jax.Array) -> jax.Array:
    """Of one member: standardised features `[batch, width]` -> `[batch, classes]`."""
    head = trained["head"]["predictions"]
    return ((head["kernel"] * reads) @ inputs.T).T + head["bias"]
