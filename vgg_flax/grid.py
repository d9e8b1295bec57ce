"""Many linear heads trained at once on the same features; validation picks one.

A member of the grid is a choice of block outputs, a learning rate and a weight decay. AdamW trains them together: a
batch is standardised once, and one product with the kernels of all members gives their logits. L-BFGS trains them in
turn. The kernel of a member that reads fewer features stays zero at the others: with a zero start it learns exactly
what it would learn alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vgg_flax.network.params import Params
from vgg_flax.network.spec import feature_columns
from vgg_flax.settings import Choice
from vgg_flax.training import task as training
from vgg_flax.training.checkpoint import rank
from vgg_flax.training.feed import Batches


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

    rates, decays = (np.array([getattr(choice, name) for choice in choices]) for name in ("lr", "weight_decay"))
    states = _init_all(recipe, rates, decays, _reads(recipe, choices))
    val_inputs = _standardized(standardize, val_features)
    log: list[list[Result]] = []
    for epoch in range(1, epochs + 1):
        for batches in epoch_batches(epoch - 1):
            states = _train_all(recipe, states, standardize, batches)
        sums = _validate_all(states, val_inputs, val_labels)
        accuracies, losses = (np.asarray(sums[name], np.float64) / len(val_labels) for name in ("correct", "loss"))
        log.append([Result(choice, epoch, float(accuracies[k]), float(losses[k])) for k, choice in enumerate(choices)])
        check()
    return sorted((max(mine, key=standing) for mine in zip(*log, strict=True)), key=standing, reverse=True)


def _reads(recipe: training.Recipe, choices: list[Choice]) -> np.ndarray:
    """Which features each member reads: float32 `[members, n]`, 1 or 0."""
    reads = np.zeros((len(choices), recipe.spec.head_inputs), np.float32)
    for row, choice in zip(reads, choices, strict=True):
        row[feature_columns(recipe.spec, choice.features)] = 1.0
    return reads


@functools.partial(jax.jit, static_argnums=0)
def _init_all(recipe: training.Recipe, rates: Any, decays: Any, reads: Any) -> training.State:
    """The states of all members, stacked, with what each `reads`."""

    def one(rate: jax.Array, decay: jax.Array, reads: jax.Array) -> training.State:
        # [classes, n], not the other way round: the optimiser runs along the features, and takes longest
        kernel = jnp.zeros((recipe.spec.head.classes, len(reads)))
        trainable = {"head": {"predictions": {"kernel": kernel, "bias": kernel[:, 0]}}}
        return training.init_state(recipe, trainable, rate, decay) | {"reads": reads}

    return jax.vmap(one)(rates, decays, reads)


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
