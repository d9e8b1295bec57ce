"""Training by AdamW: a jitted scan of optimiser steps, pure functions of a typed state.

What is frozen is an argument beside the state and has no gradient at all.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vgg_flax.network.model import bind_head, read_stored
from vgg_flax.network.params import Params, combine, flatten, partition, unflatten
from vgg_flax.network.spec import Cut, ModelSpec
from vgg_flax.training.feed import Batches, Feed


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How AdamW is set.

    Attributes:
      steps: optimiser steps in the whole run.
      lr: peak learning rate of the head.
      weight_decay: decoupled, of kernels alone.
      warmup: share of the steps in which the learning rate rises.
    """

    steps: int
    lr: float
    weight_decay: float = 0.0
    warmup: float = 0.0


@dataclasses.dataclass(frozen=True)
class State:
    """What a step changes: trained parameters, optax's state, steps done (int32)."""

    params: Params
    opt_state: Any
    step: jax.Array


jax.tree_util.register_dataclass(State)


@dataclasses.dataclass(frozen=True)
class Task:
    """What a training step is compiled for: the network, where training begins, the optimiser."""

    spec: ModelSpec
    cut: Cut
    recipe: Recipe

    @property
    def what(self) -> str:
        """What a batch holds: see `Cut.stored`."""
        return self.cut.stored(self.spec.head)

    def init(self, params: Params) -> tuple[State, Params]:
        """(The state before the first step, what stays as it is) of a network's parameters."""
        trained, frozen = partition(params, lambda path: self.cut.rate(path) is not None)
        trained = jax.tree.map(jnp.asarray, trained)
        return State(trained, make_optimizer(self).init(trained), jnp.zeros((), jnp.int32)), frozen

    def step(
        self, state: State, frozen: Params, batches: Batches, key: jax.Array
    ) -> tuple[State, dict[str, jax.Array]]:
        """Optimiser steps over the leading axis of `batches`: see `train_steps`."""
        return train_steps(self, state, frozen, batches, key)

    def logits(
        self, params: Params, feed: Feed, rows: np.ndarray, check: Callable[[], None] = lambda: None
    ) -> np.ndarray:
        """What a network says of the clean pictures `rows` `[m]` of a feed: float32 `[m, classes]`."""
        parts = [np.empty((0, self.spec.head.classes), np.float32)]
        for stored, count in feed.clean(rows):
            check()
            parts.append(np.asarray(network_logits(self.spec, feed.what, params, stored))[:count])
        return np.concatenate(parts)


def make_optimizer(task: Task) -> optax.GradientTransformation:
    """AdamW with warm-up and cosine decay to zero, for each rate of the cut; its decay touches kernels alone."""

    def adamw(scale: float) -> optax.GradientTransformation:
        def rate(step: Any) -> jax.Array:
            return jnp.asarray(task.recipe.lr * scale * learning_rate(task.recipe, step))

        return optax.adamw(rate, weight_decay=task.recipe.weight_decay, mask=_is_kernel)  # type: ignore[arg-type]

    def rates(params: Params) -> Params:
        return unflatten({path: task.cut.rate(path) for path in flatten(params)})

    scales = {rate for _, rate in task.cut.rates if rate is not None}
    transforms: dict[Hashable, optax.GradientTransformation] = {scale: adamw(scale) for scale in scales}
    return optax.partition(transforms, rates)


def learning_rate(recipe: Recipe, step: Any) -> Any:
    """Share of the peak at a step: from 1 % up to 1 while warming up, then a cosine down to 0."""
    rise = min(max(1, round(recipe.steps * recipe.warmup)), recipe.steps - 1) if recipe.warmup else 0
    schedule = optax.warmup_cosine_decay_schedule(0.01 if rise else 1.0, 1.0, rise, max(recipe.steps, rise + 1))
    return schedule(step)


def _is_kernel(params: Params) -> Params:
    return unflatten({path: path.endswith("kernel") for path in flatten(params)})


@functools.partial(jax.jit, static_argnums=0, donate_argnames="state")
def train_steps(
    task: Task, state: State, frozen: Params, batches: Batches, key: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
    """Optimiser steps over the leading axis of `batches`.

    Args:
      frozen: parameters without a gradient; together with state.params they are the network.
      key: for dropout, folded with the step number.

    Returns:
      The new state, and sums over the pictures seen: `loss`, `correct`, `count`.
    """
    step = functools.partial(one_step, task, frozen, key)
    if task.what == "pooled":
        state, sums = jax.lax.scan(step, state, batches)
        return state, jax.tree.map(jnp.sum, sums)
    # On a CPU, XLA's gradients of convolutions take minutes a step where they stand in a loop, so there is none.
    totals = []
    for i in range(len(batches.labels)):
        state, sums = step(state, jax.tree.map(lambda leaf, i=i: leaf[i], batches))
        totals.append(sums)
    return state, jax.tree.map(lambda *sums: sum(sums), *totals)


def one_step(
    task: Task, frozen: Params, key: jax.Array, state: State, batch: Batches
) -> tuple[State, dict[str, jax.Array]]:
    """One optimiser step on one batch `[batch, ...]`."""
    dropout_key = jax.random.fold_in(key, state.step)
    gradient = jax.value_and_grad(functools.partial(mean_loss, task, frozen, dropout_key), has_aux=True)
    (_, sums), grads = gradient(state.params, batch)
    updates, opt_state = make_optimizer(task).update(grads, state.opt_state, state.params)
    return State(optax.apply_updates(state.params, updates), opt_state, state.step + 1), sums  # type: ignore[arg-type]


def mean_loss(
    task: Task, frozen: Params, dropout_key: jax.Array, trained: Params, batch: Batches
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean cross-entropy over a batch's pictures, and the sums of `score`."""
    params = combine(trained, frozen)
    features = read_stored(task.spec, task.what, params.get("backbone", {}), batch.inputs)
    logits = bind_head(task.spec, params["head"])(features, dropout_key)
    sums = score(logits, batch.labels, batch.weights)
    return sums["loss"] / sums["count"], sums


def score(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    """Sums over a batch, never means of means. logits `[batch, classes]`, labels and weights `[batch]`."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    correct = (logits.argmax(-1) == labels).astype(jnp.float32)
    return {"loss": (losses * weights).sum(), "correct": (correct * weights).sum(), "count": weights.sum()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def network_logits(spec: ModelSpec, what: str, params: Params, stored: jax.Array) -> jax.Array:
    """Logits `[n, classes]` of what is stored of n pictures, nothing dropped."""
    return bind_head(spec, params["head"])(read_stored(spec, what, params.get("backbone", {}), stored))


def standardization(features: np.ndarray) -> Params:
    """Mean and deviation of each feature over the training pictures: `[n, features]` -> NumPy `[features]` each.

    Features that hardly ever fire have a tiny deviation and would shout when they do: a floor keeps them quiet.
    """
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    floor = 0.01 * std.mean() if std.any() else 1.0
    return {"mean": mean.astype(np.float32), "std": np.maximum(std, floor).astype(np.float32)}
