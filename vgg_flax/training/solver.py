"""The solver of `regression`: optax's L-BFGS for many softmax regressions on shared features.

Members of a fit differ only in which rows they learn from, so one product of the features with the kernels of all
members gives their logits. Linear models allow three things more:

- Rows fewer than columns are replaced by their coordinates in an orthonormal basis of their own span. That is exact:
  the penalty pushes a kernel to zero wherever no training row reaches.
- Coordinates are scaled by the Cholesky factor of an approximate Hessian, rows^T q rows + strength I. In the scaled
  ones, v, the penalty strength |w|^2 is |v|^2 - sum_i q_i (v rows_i)^2, so that it costs no product of its own.
- Logits are linear in the step, so the line search costs no product either: an iteration has two.

Nocedal and Wright, "Numerical Optimization", chapters 3 and 7; Boehning, "Multinomial logistic regression algorithm",
Annals of the Institute of Statistical Mathematics 44 (1992), bounds the Hessian by one such matrix.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import cholesky, solve_triangular

from vgg_flax.training.task import standardization

CHUNK = 32  # iterations at most between two calls of `check`
CHUNK_WORK = 2e10  # floating-point operations likewise: a fraction of a second on two cores
LINE_SEARCH = 0.3  # share of the first slope that may be left at the end of a step

State = dict[str, Any]
solver = optax.scale_by_lbfgs(memory_size=5)  # 10 saved no iterations


class Problem:
    """Features, labels and members, standardised and turned to as few coordinates as they need.

    Attributes:
      constants: `mean` and `std`, float32 `[columns]`.
      answers: bool `[members, n]`, rows that a member has not seen and is judged by.
    """

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        classes: int,
        teaches: np.ndarray,
        answers: np.ndarray,
        check: Callable[[], None],
        advance: Callable[[int], None],
    ):
        self.rows, self.columns, self.classes, self.labels, self.answers = *features.shape, classes, labels, answers
        self.constants = standardization(features)
        self._inputs = (features.astype(np.float64) - self.constants["mean"]) / self.constants["std"]
        self._coordinates = self._inputs if self.rows > self.columns else _in_their_span(self._inputs)
        self._data = {
            "hot": (np.arange(classes)[:, None] == labels).astype(np.float32),
            "labels": labels.astype(np.int32),
            "weights": (teaches / np.maximum(teaches.sum(1, keepdims=True), 1)).astype(np.float32),
            "answers": answers.astype(np.float32),
        }
        self._check, self._advance = check, advance

    def solve(
        self,
        strength: float,
        curvature: np.ndarray,
        start: State | None,
        tolerance: tuple[float, float],
        iterations: int,
    ) -> tuple[State, np.ndarray]:
        """Fit all members.

        Args:
          curvature: float `[n]`, about how much the loss of each row bends: decides how fast, never what comes out.
          start: an earlier answer; zero, if not given.

        Returns:
          NumPy: `weights` in the coordinates `[members, classes, m]`, `bias` `[members, classes]`, `logits`
          `[members, classes, n]`, `converged`; and a line of `_evaluate`'s sums for each iteration.
        """
        self._check()
        q = curvature / self.rows
        weighted = np.sqrt(q)[:, None] * self._coordinates
        hessian = weighted.T @ weighted
        hessian[np.diag_indices(len(hessian))] += strength
        factor = cholesky(hessian.T, lower=True, overwrite_a=True)
        across = solve_triangular(factor, self._coordinates.T, lower=True).astype(np.float32)  # [m, n]
        scale = float(np.sqrt(q.sum()))
        constants = {
            "q": q.astype(np.float32),
            "scale": np.float32(scale),
            "tolerance": np.array(tolerance, np.float32),
        }
        rows = np.ascontiguousarray(across.T)
        data = jax.device_put(self._data | constants | {"across": across, "rows": rows})
        self._check()
        kernel = np.zeros((len(self.answers), self.classes, len(factor)), np.float32)
        bias = np.zeros(kernel.shape[:2], np.float32)
        if start is not None:
            kernel = (start["weights"].reshape(-1, len(factor)) @ factor).reshape(kernel.shape).astype(np.float32)
            bias = (start["bias"] * scale).astype(np.float32)
        state, log = self._run(data, _init(data, kernel, bias), iterations)
        weights = np.asarray(state["kernel"], np.float64).reshape(-1, len(factor))
        weights = solve_triangular(factor, weights.T, lower=True, trans=1).T.reshape(kernel.shape)
        bias = np.asarray(state["bias"], np.float64) / scale
        logits = np.asarray(state["logits"]) + bias.astype(np.float32)[..., None]
        converged = bool(np.asarray(state["converged"]).all())
        return {"weights": weights, "bias": bias, "logits": logits, "converged": converged}, log

    def _run(self, data: State, state: State, iterations: int) -> tuple[State, np.ndarray]:
        work = 4 * state["kernel"].size * self.rows  # of one iteration
        logs = [np.zeros((0, 4), np.float32)]
        while iterations > 0 and not (len(logs) > 1 and np.asarray(state["converged"]).all()):
            steps = min(iterations, int(np.clip(CHUNK_WORK / work, 1, CHUNK)))
            done, state, log = _iterate(data, state, steps)
            logs.append(np.asarray(log)[: int(done)])
            iterations -= int(done)
            self._advance(int(done))
            self._check()
        return state, np.concatenate(logs)

    def kernel(self, weights: np.ndarray) -> np.ndarray:
        """From the coordinates to the columns: `[classes, m]` -> `[columns, classes]`."""
        if self.rows > self.columns:
            return weights.T
        return self._inputs.T @ solve_triangular(self._coordinates, weights.T, lower=True, trans=1)


def _in_their_span(inputs: np.ndarray) -> np.ndarray:
    """Rows' coordinates in an orthonormal basis of their span: float64 `[n, columns]` -> `[n, n]`, lower triangular.

    A Cholesky factor has the same inner products. Copies and centring make the rows dependent: the small addition is
    a feature of its own for each row, a hundred-thousandth as long as the row.
    """
    products = inputs @ inputs.T
    products[np.diag_indices(len(products))] += 1e-10 * max(np.trace(products) / len(products), 1.0)
    return cholesky(products.T, lower=True, overwrite_a=True)


@jax.jit
def _init(data: State, kernel: jax.Array, bias: jax.Array) -> State:
    memory = jax.vmap(solver.init)({"kernel": kernel, "bias": bias})
    state = {"kernel": kernel, "bias": bias, "logits": _logits(data, kernel), "memory": memory}
    return _evaluate(data, state)[0]


@functools.partial(jax.jit, donate_argnames="state")
def _iterate(data: State, state: State, steps: jax.Array) -> tuple[jax.Array, State, jax.Array]:
    """From 1 to `steps` iterations: how many, the new state, a line of `_evaluate`'s sums for each, `[CHUNK, 4]`."""

    def unfinished(carry: tuple[jax.Array, State, jax.Array]) -> jax.Array:
        return (carry[0] < steps) & ((carry[0] == 0) | ~carry[1]["converged"].all())

    def one(carry: tuple[jax.Array, State, jax.Array]) -> tuple[jax.Array, State, jax.Array]:
        i, state, log = carry
        state, sums = _evaluate(data, _step(data, state))
        return i + 1, state, log.at[i].set(sums)

    return jax.lax.while_loop(unfinished, one, (jnp.zeros((), jnp.int32), state, jnp.zeros((CHUNK, 4))))


def _step(data: State, state: State) -> State:
    """An L-BFGS step of every member that has not converged."""
    params = {"kernel": state["kernel"], "bias": state["bias"]}
    updates, memory = jax.vmap(solver.update)(state["gradient"], state["memory"], params)
    direction = jax.tree.map(jnp.negative, updates)
    change = _logits(data, direction["kernel"])
    length = _line_search(data, state, direction, change)
    return state | {
        "kernel": state["kernel"] + length * direction["kernel"],
        "bias": state["bias"] + length[..., 0] * direction["bias"],
        "logits": state["logits"] + length * change,
        "memory": memory,
    }


def _line_search(data: State, state: State, direction: State, change: jax.Array) -> jax.Array:
    """Newton's method on the convex loss along the direction, kept inside a bracket: `[members, 1, 1]`, 0 to 8."""
    kernel, q = direction["kernel"], data["q"]
    linear = _per_member(state["kernel"] * kernel) - _per_member(q * state["logits"] * change)
    square = _per_member(kernel**2) - _per_member(q * change**2)
    logits = state["logits"] + (state["bias"] / data["scale"])[..., None]
    change = change + (direction["bias"] / data["scale"])[..., None]
    first = _per_member(state["gradient"]["kernel"] * kernel) + (state["gradient"]["bias"] * direction["bias"]).sum(1)

    def try_one(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        k, at, low, high, done = carry
        p = jax.nn.softmax(logits + at[:, None, None] * change, axis=1)
        mean = (p * change).sum(1)
        slope = (data["weights"] * (mean - (data["hot"] * change).sum(1))).sum(1) + linear + at * square
        bend = (data["weights"] * ((p * change**2).sum(1) - mean**2)).sum(1) + square
        done |= jnp.abs(slope) <= LINE_SEARCH * jnp.abs(first)
        low, high = jnp.where(slope < 0, at, low), jnp.where(slope < 0, high, at)
        newton = at - slope / bend
        inside = jnp.where((newton > low) & (newton < high), newton, (low + high) / 2)
        return k + 1, jnp.where(done, at, inside), low, high, done

    def unfinished(carry: tuple[jax.Array, ...]) -> jax.Array:
        return (carry[0] < 10) & ~carry[-1].all()

    one = jnp.ones(len(first))
    _, length, *_ = jax.lax.while_loop(
        unfinished, try_one, (jnp.zeros((), jnp.int32), one, 0 * one, 8 * one, state["converged"])
    )
    return jnp.where(state["converged"], 0.0, length)[:, None, None]


def _evaluate(data: State, state: State) -> tuple[State, jax.Array]:
    """The state with the gradient where it stands, and [loss, hits of the last member, loss, hits out of fold].

    The first is a mean over the member's rows, the others are sums.
    """
    logits = state["logits"] + (state["bias"] / data["scale"])[..., None]
    logs = jax.nn.log_softmax(logits, axis=1)
    losses = -(data["hot"] * logs).sum(1)
    errors = data["weights"][:, None] * (jnp.exp(logs) - data["hot"])
    gradient = {
        "kernel": _product(errors - data["q"] * state["logits"], data["across"]) + state["kernel"],
        "bias": errors.sum(-1) / data["scale"],
    }
    norm = jnp.sqrt(_per_member(gradient["kernel"] ** 2) + (gradient["bias"] ** 2).sum(1))
    loss = (data["weights"] * losses).sum(1)
    hits = logits.argmax(1) == data["labels"]
    sums = [loss[-1], hits[-1].sum(), (data["answers"] * losses).sum(), (data["answers"] * hits).sum()]
    relative, absolute = data["tolerance"]
    converged = norm <= jnp.maximum(relative * loss, absolute)
    return state | {"gradient": gradient, "converged": converged}, jnp.stack([jnp.float32(sum) for sum in sums])


def _logits(data: State, kernel: jax.Array) -> jax.Array:
    """Without the bias: `[members, classes, m]` -> `[members, classes, n]`."""
    return _product(kernel, data["rows"])


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """One large product for all members: `[members, classes, k]`, `[l, k]` -> `[members, classes, l]`."""
    flat = jnp.matmul(left.reshape(-1, left.shape[-1]), right.T, precision=jax.lax.Precision.HIGHEST)
    return flat.reshape(*left.shape[:2], -1)


def _per_member(values: jax.Array) -> jax.Array:
    return values.sum((1, 2))
