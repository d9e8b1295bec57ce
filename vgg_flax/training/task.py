"""Training the head, and on request the backbone: a jitted scan over prepared batches.

The state is a plain dict, {"params": what is trained, "opt_state": optax's, "step", "lr", "weight_decay"}, so that a
checkpoint is nothing but arrays and a grid of heads is a `vmap` over states. What is frozen is an argument beside it
and has no gradient at all.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vgg_flax.network.model import bind_backbone, bind_head, gather_features
from vgg_flax.network.params import Params, combine, flatten, unflatten
from vgg_flax.network.spec import ModelSpec
from vgg_flax.training.feed import Batches

State = dict[str, Any]
Loss = Callable[[Params], tuple[jax.Array, dict[str, jax.Array]]]  # what is trained -> mean loss, sums
BACKBONE_LR = 0.1  # of the head's learning rate
TRAINABLE = {
    "none": r"head/(?!standardize)",
    "block5": r"head/(?!standardize)|backbone/block5",
    "all": r"head/(?!standardize)|backbone/",
}
Inputs = Literal["features", "block4", "images"]
INPUTS: dict[str, Inputs] = {"none": "features", "block5": "block4", "all": "images"}  # the last that stays as it is
FIRST_BLOCK = {"block4": 5, "images": 1}  # that the inputs go through


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a training step is compiled for.

    Attributes:
      spec: the network.
      steps: optimiser steps in the whole run.
      warmup: share of them in which the learning rate rises.
      inputs: what a batch holds: what the head reads, outputs of block4, or normalised images.
      solver: `adamw`, or `lbfgs` for a convex head that sees all pictures in every step.
    """

    spec: ModelSpec
    steps: int
    warmup: float
    inputs: Inputs = "features"
    solver: Literal["adamw", "lbfgs"] = "adamw"


def init_state(recipe: Recipe, trainable: Params, lr: Any, weight_decay: Any) -> State:
    """The state before the first step; the learning rate is the head's at its peak. Both are scalars."""
    hyper = {"lr": jnp.asarray(lr, jnp.float32), "weight_decay": jnp.asarray(weight_decay, jnp.float32)}
    trainable = jax.tree.map(jnp.asarray, trainable)
    opt_state = make_optimizer(recipe, **hyper).init(trainable)
    if recipe.solver == "lbfgs":  # it remembers the parameters themselves, and a buffer can be donated only once;
        # its weak types would have the second call compiled anew
        opt_state = jax.tree.map(lambda leaf: jnp.array(leaf, leaf.dtype), opt_state)
    return {"params": trainable, "opt_state": opt_state, "step": jnp.zeros((), jnp.int32), **hyper}


def make_optimizer(recipe: Recipe, lr: jax.Array, weight_decay: jax.Array) -> optax.GradientTransformation:
    """AdamW with warm-up and cosine decay to zero, or L-BFGS with a line search.

    AdamW's decay is decoupled and touches kernels alone; the backbone learns at a tenth of the rate.
    """
    if recipe.solver == "lbfgs":
        return optax.lbfgs()

    def adamw(scale: float) -> optax.GradientTransformation:
        def rate(step: Any) -> jax.Array:
            return lr * scale * jnp.asarray(learning_rate(recipe, step))

        return optax.adamw(rate, weight_decay=weight_decay, mask=_is_kernel)  # type: ignore[arg-type]

    transforms: dict[Hashable, optax.GradientTransformation] = {"head": adamw(1.0), "backbone": adamw(BACKBONE_LR)}
    return optax.partition(transforms, lambda params: {part: part for part in params})


def learning_rate(recipe: Recipe, step: Any) -> Any:
    """Share of the peak at a step: from 1 % up to 1 while warming up, then a cosine down to 0. L-BFGS: always 1."""
    if recipe.solver == "lbfgs":
        return 1.0
    rise = min(max(1, round(recipe.steps * recipe.warmup)), recipe.steps - 1) if recipe.warmup else 0
    schedule = optax.warmup_cosine_decay_schedule(0.01 if rise else 1.0, 1.0, rise, max(recipe.steps, rise + 1))
    return schedule(step)


def _sum_of_squares(params: Params) -> jax.Array:
    """Of kernels alone."""
    squares = [(leaf**2).sum() for path, leaf in flatten(params).items() if path.endswith("kernel")]
    return jnp.stack(squares).sum()


def _is_kernel(params: Params) -> Params:
    return unflatten({path: path.endswith("kernel") for path in flatten(params)})


@functools.partial(jax.jit, static_argnums=0, donate_argnames="state")
def train_steps(
    recipe: Recipe, state: State, frozen: Params, batches: Batches, key: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
    """Optimiser steps over the leading axis of `batches`.

    Args:
      frozen: parameters without a gradient; together with state["params"] they are the network, or its head where the
        inputs are features.
      key: for dropout, folded with the step number.

    Returns:
      The new state, and sums over the pictures seen: `loss`, `correct`, `count`.
    """

    def loss_of(batch: Batches, step: jax.Array) -> Loss:
        def loss(trainable: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            params = combine(trainable, frozen)
            dropout_key = jax.random.fold_in(key, step)
            features = head_features(recipe.spec, recipe.inputs, params, batch.inputs)
            return mean_loss(head_logits(recipe.spec, params["head"], features, dropout_key), batch)

        return loss

    return optimize(recipe, loss_of, state, batches)


def optimize(
    recipe: Recipe, loss_of: Callable[[Batches, jax.Array], Loss], state: State, batches: Batches
) -> tuple[State, dict[str, jax.Array]]:
    """Optimiser steps over the leading axis of `batches`; what `train_steps` does, for any loss. To be jitted.

    Args:
      loss_of: (a batch, the step's number) -> the loss as a function of what is trained. What it computes beforehand
        is computed once a step, however often a line search asks for the loss.
    """

    def one_step(state: State, batch: Batches) -> tuple[State, dict[str, jax.Array]]:
        optimizer = make_optimizer(recipe, state["lr"], state["weight_decay"])
        loss = loss_of(batch, state["step"])

        def objective(trainable: Params) -> tuple[jax.Array, dict[str, jax.Array]]:
            value, sums = loss(trainable)
            if recipe.solver == "lbfgs":  # AdamW has its decay in the update
                value += 0.5 * state["weight_decay"] * _sum_of_squares(trainable)
            return value, sums

        (value, sums), grads = jax.value_and_grad(objective, has_aux=True)(state["params"])
        search = {"value": value, "grad": grads, "value_fn": lambda trainable: objective(trainable)[0]}
        updates, opt_state = optax.with_extra_args_support(optimizer).update(
            grads, state["opt_state"], state["params"], **search
        )
        params = optax.apply_updates(state["params"], updates)
        return state | {"params": params, "opt_state": opt_state, "step": state["step"] + 1}, sums

    if recipe.inputs == "features":
        state, sums = jax.lax.scan(one_step, state, batches)
        return state, jax.tree.map(jnp.sum, sums)
    # On a CPU, XLA's gradients of convolutions take minutes a step where they stand in a loop, so there is none.
    totals = []
    for i in range(len(batches.labels)):
        state, sums = one_step(state, jax.tree.map(lambda leaf, i=i: leaf[i], batches))
        totals.append(sums)
    return state, jax.tree.map(lambda *sums: sum(sums), *totals)


def mean_loss(logits: jax.Array, batch: Batches) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The mean over a batch's pictures, and the sums of `score`. logits `[batch, classes]`."""
    sums = score(logits, batch.labels, batch.weights)
    return sums["loss"] / sums["count"], sums


def score(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> dict[str, jax.Array]:
    """Sums over a batch, never means of means. logits `[batch, classes]`, labels and weights `[batch]`."""
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    correct = (logits.argmax(-1) == labels).astype(jnp.float32)
    return {"loss": (losses * weights).sum(), "correct": (correct * weights).sum(), "count": weights.sum()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def head_features(spec: ModelSpec, inputs: Inputs, params: Params, batch: jax.Array) -> jax.Array:
    """What the head reads, float32 `[n, head_inputs]`.

    Args:
      batch: what `inputs` says: `[n, head_inputs]`, `[n, size / 16, size / 16, 512]` or `[n, size, size, 3]`.
    """
    if inputs == "features":
        return batch
    blocks = bind_backbone(spec, params["backbone"])(batch, FIRST_BLOCK[inputs])
    return gather_features(blocks, spec.head.features)


@functools.partial(jax.jit, static_argnums=0)
def head_logits(spec: ModelSpec, head: Params, features: jax.Array, dropout_key: jax.Array | None = None) -> jax.Array:
    """Features `[n, head_inputs]` -> logits `[n, classes]`. Without a key nothing is dropped."""
    return bind_head(spec, head)(features, dropout_key)


def standardization(features: np.ndarray) -> Params:
    """Mean and deviation of each feature over the training pictures: `[n, features]` -> NumPy `[features]` each.

    Features that hardly ever fire have a tiny deviation and would shout when they do: a floor keeps them quiet.
    """
    mean, std = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    floor = 0.01 * std.mean() if std.any() else 1.0
    return {"mean": mean.astype(np.float32), "std": np.maximum(std, floor).astype(np.float32)}
