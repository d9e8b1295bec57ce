"""L2-regularised softmax regression fitted to convergence, all folds of a cross-validation at once.

Members of a fit differ only in which rows they learn from, so one product of the shared features with the kernels of
all members gives their logits. The solver is optax's L-BFGS, with three things that linear models allow:

- Rows fewer than columns are replaced by their coordinates in an orthonormal basis of their own span. That is exact:
  the penalty pushes a kernel to zero wherever no training row reaches.
- Coordinates are scaled by the Cholesky factor of a bound-like Hessian, M = rows^T q rows + strength I. In them the
  penalty is strength |w|^2 = |v|^2 - sum_i q_i (rows v)_i^2, so it costs no product of its own.
- Logits are linear in the step, so that the line search costs no product either: two products an iteration.

Boehning, "Multinomial logistic regression algorithm", 1992; Nocedal and Wright, "Numerical Optimization", chapter 7.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.linalg import solve_triangular
from scipy.special import log_softmax

from vgg_flax.answers.scores import cross_entropy, fit_temperature
from vgg_flax.network.params import Params
from vgg_flax.training.task import standardization

STRENGTHS = (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)  # from strong to weak; then half a decade around the best
PATIENCE = 2  # strengths in a row that don't lower the loss end a path
TIE = 0.01  # relative: losses that the folds can't tell apart
CURVATURE = 0.1  # of that at a zero start: predictions soon become sure, and sure ones bend the loss less
CHUNK = 32  # iterations at most between two calls of `check`
CHUNK_WORK = 2e10  # floating-point operations likewise: a fraction of a second on two cores
LINE_SEARCH = 0.3  # share of the first slope that may be left at the end of a step
FLOOR = 1e-5  # norm of the gradient, in the scaled coordinates, that counts as zero: float32 gives little more
CHOICE, FINAL = 1e-2, 1e-3  # norm of the gradient relative to the training loss at which a fit has converged

State = dict[str, Any]
solver = optax.scale_by_lbfgs(memory_size=10)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A set of columns and a strength of the regularisation, as the folds judge it.

    Attributes:
      columns: name of the set.
      width: number of columns in it.
      strength: coefficient of |kernel|^2 / 2 beside the mean loss; scikit-learn's C is 1 / (strength * rows).
      loss: out-of-fold cross-entropy in nats, logits divided by `temperature`.
      accuracy: out-of-fold.
      temperature: at least 1.
      iterations: of the solver, for this strength.
    """

    columns: str
    width: int
    strength: float
    loss: float
    accuracy: float
    temperature: float
    iterations: int


COLUMNS = tuple(field.name for field in dataclasses.fields(Candidate))


@dataclasses.dataclass(frozen=True)
class Fit:
    """The model of all rows, and what the models of the folds say about the rows they have not seen.

    Attributes:
      kernel: float32 `[columns, classes]`, for standardised features.
      bias: float32 `[classes]`.
      mean, std: float32 `[columns]`; a standardised feature is (feature - mean) / std.
      out_of_fold: float32 logits `[rows, classes]`, each row by the member that has not seen its fold.
      history: for each iteration `train_loss` and `train_accuracy` of the model of all rows, `val_loss` and
        `val_accuracy` out of fold.
      iterations: of the solver.
      converged: every member did, before the iterations ended.
    """

    kernel: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    out_of_fold: np.ndarray
    history: list[dict[str, float]]
    iterations: int
    converged: bool

    def params(self, backbone: Params) -> Params:
        """A whole network's, on this backbone."""
        constants, last = {"mean": self.mean, "std": self.std}, {"kernel": self.kernel, "bias": self.bias}
        return {"backbone": backbone, "head": {"standardize": constants, "predictions": last}}


def choose(
    pooled: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    column_sets: Mapping[str, np.ndarray],
    classes: int,
    *,
    scored: np.ndarray | None = None,
    apart: int | None = None,
    strength: float | None = None,
    iterations: int = 200,
    check: Callable[[], None] = lambda: None,
    advance: Callable[[int], None] = lambda k: None,
) -> list[Candidate]:
    """Every candidate tried, the lowest out-of-fold loss first; ties go to fewer columns, then more regularisation.

    Args:
      pooled: float32 `[n, width]`.
      labels: int `[n]`, below `classes`.
      folds: int `[n]`, from 0; a row teaches every member but that of its own fold.
      column_sets: name -> int `[m]`, which columns of `pooled` are read.
      scored: bool `[n]`, rows whose loss counts; random views of a photo are rows that don't. All, if not given.
      apart: a fold that teaches none of the others and is not scored: a validation set of the user's own.
      strength: of the regularisation; unset: a path from strong to weak, and half a decade around the best.
      iterations: at most so many for each strength.
      check: called at least every second or so; may raise to stop.
      advance: told how many iterations were done since.

    A row whose class its member has never seen is not scored: no strength can help there.
    """
    members = np.array([f for f in range(folds.max() + 1) if f != apart])
    teaches = _teaches(folds, members, apart)
    answers = (folds == members[:, None]) & (scored if scored is not None else True)
    seen = np.stack([np.isin(labels, labels[mine]) for mine in teaches])
    answers = answers & seen if (answers & seen).any() else answers
    candidates: list[Candidate] = []
    best, around = np.inf, None
    for name, columns in column_sets.items():
        problem = _Problem(pooled[:, columns], labels, classes, teaches, answers, check, advance)
        found, state = _path(problem, name, STRENGTHS if strength is None else (strength,), None, iterations)
        candidates += found
        if (mine := min(found, key=_loss)).loss < best:
            best, around = mine.loss, (problem, name, (mine.strength * 10**0.5, mine.strength / 10**0.5), state)
    assert around is not None
    if strength is None:
        candidates += _path(*around, iterations)[0]
    lowest = min(map(_loss, candidates))

    def standing(candidate: Candidate) -> tuple[float, int, float]:
        tied = candidate.loss <= lowest * (1 + TIE)
        return (lowest if tied else candidate.loss), candidate.width, -candidate.strength

    return sorted(candidates, key=standing)


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    folds: np.ndarray,
    strength: float,
    classes: int,
    *,
    scored: np.ndarray | None = None,
    apart: int | None = None,
    iterations: int = 1000,
    check: Callable[[], None] = lambda: None,
    advance: Callable[[int], None] = lambda k: None,
) -> Fit:
    """The member of every fold and the one of all rows, from zero, to convergence or for `iterations`.

    Args: as `choose`; features float32 `[n, columns]`. In `history`, validation is the scored rows of the fold
    `apart` if there is one, else all scored rows.
    """
    members = np.arange(folds.max() + 1)
    teaches = np.vstack([_teaches(folds, members, apart), np.ones(len(folds), bool)])
    answers = (folds == np.append(members, -1)[:, None]) & (scored if scored is not None else True)
    if apart is not None:
        answers &= folds == apart
    problem = _Problem(features, labels, classes, teaches, answers, check, advance)
    state, log = problem.solve(strength, _curvature(problem, None), None, FINAL, iterations)
    kernel = problem.kernel(state["weights"][-1])
    return Fit(
        kernel.astype(np.float32),
        state["bias"][-1].astype(np.float32),
        problem.constants["mean"],
        problem.constants["std"],
        state["logits"][folds, :, np.arange(len(folds))],
        _history(log, int(answers.sum()), len(folds)),
        len(log),
        state["converged"],
    )


def _teaches(folds: np.ndarray, members: np.ndarray, apart: int | None) -> np.ndarray:
    """Which rows each member learns from: bool `[members, n]`."""
    own = folds == members[:, None]
    return ~own & ((folds != apart) | (members[:, None] == apart))


def _history(log: np.ndarray, answered: int, rows: int) -> list[dict[str, float]]:
    names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    means = log / np.array([1, rows, max(answered, 1), max(answered, 1)])
    return [dict(zip(names, map(float, row), strict=True)) for row in means]


def _loss(candidate: Candidate) -> float:
    return candidate.loss


def _path(
    problem: _Problem, name: str, strengths: tuple[float, ...], state: State | None, iterations: int
) -> tuple[list[Candidate], State | None]:
    """Each fit starts where the last one ended, until the loss falls no more or clearly rises. Also the last fit."""
    candidates: list[Candidate] = []
    lowest, waited = np.inf, 0
    for strength in strengths:
        state, log = problem.solve(strength, _curvature(problem, state), state, CHOICE, iterations)
        candidates.append(_judge(problem, state["logits"], name, strength, len(log)))
        loss = candidates[-1].loss
        waited = 0 if loss < lowest * (1 - TIE) else waited + 1
        if waited == PATIENCE or loss > lowest * (1 + TIE):
            break
        lowest = min(lowest, loss)
    return candidates, state


def _curvature(problem: _Problem, state: State | None) -> np.ndarray:
    """About how much each row's loss bends: the mean of p (1 - p) over members and classes, `[n]`."""
    start = CURVATURE * (1 - 1 / problem.classes) / problem.classes
    if state is None:
        return np.full(problem.rows, start)
    p = np.exp(log_softmax(state["logits"], axis=1))
    return np.maximum((p * (1 - p)).mean((0, 1), dtype=np.float64), 0.01 * start)


def _judge(problem: _Problem, logits: np.ndarray, name: str, strength: float, iterations: int) -> Candidate:
    member, row = np.nonzero(problem.answers)
    logits, labels = logits[member, :, row], problem.labels[row]
    temperature = _temperature(logits, labels)
    loss, accuracy = cross_entropy(logits / temperature, labels), float((logits.argmax(-1) == labels).mean())
    return Candidate(name, problem.columns, strength, loss, accuracy, temperature, iterations)


def _temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """`fit_temperature`, without its search where the slope at 1 says that only a sharper one would help."""
    slope = (np.exp(log_softmax(logits, axis=-1)) * logits).sum(-1) - logits[np.arange(len(labels)), labels]
    return fit_temperature(logits, labels) if slope.mean() > 0 else 1.0


class _Problem:
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
            "hot": jnp.asarray(np.arange(classes)[:, None] == labels, jnp.float32),
            "labels": jnp.asarray(labels, jnp.int32),
            "weights": jnp.asarray(teaches / np.maximum(teaches.sum(1, keepdims=True), 1), jnp.float32),
            "answers": jnp.asarray(answers, jnp.float32),
        }
        self._check, self._advance = check, advance

    def solve(
        self, strength: float, curvature: np.ndarray, start: State | None, tolerance: float, iterations: int
    ) -> tuple[State, np.ndarray]:
        """Fit all members.

        Args:
          curvature: float `[n]`, about how much the loss of each row bends: decides how fast, never what comes out.
          start: an earlier answer; zero, if not given.

        Returns:
          NumPy: `weights` in the coordinates `[members, classes, m]`, `bias` `[members, classes]`, `logits`
          `[members, classes, n]`, `converged`; and a line of `_evaluate`'s sums for each iteration.
        """
        q = curvature / self.rows
        weighted = np.sqrt(q)[:, None] * self._coordinates
        hessian = weighted.T @ weighted
        hessian[np.diag_indices(len(hessian))] += strength
        factor = np.linalg.cholesky(hessian)
        across = solve_triangular(factor, self._coordinates.T, lower=True).astype(np.float32)  # [m, n]
        scale = float(np.sqrt(q.sum()))
        data = self._data | {"across": jnp.asarray(across), "rows": jnp.asarray(np.ascontiguousarray(across.T))}
        data |= {"q": jnp.asarray(q, jnp.float32), "scale": jnp.float32(scale), "tolerance": jnp.float32(tolerance)}
        kernel = np.zeros((len(self.answers), self.classes, len(factor)), np.float32)
        bias = np.zeros(kernel.shape[:2], np.float32)
        if start is not None:
            kernel, bias = (start["weights"] @ factor).astype(np.float32), (start["bias"] * scale).astype(np.float32)
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
        while iterations > 0 and not np.asarray(state["converged"]).all():
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
    return np.linalg.cholesky(products)


@jax.jit
def _init(data: State, kernel: jax.Array, bias: jax.Array) -> State:
    memory = jax.vmap(solver.init)({"kernel": kernel, "bias": bias})
    state = {"kernel": kernel, "bias": bias, "logits": _logits(data, kernel), "memory": memory}
    return _evaluate(data, state)[0]


@functools.partial(jax.jit, donate_argnames="state")
def _iterate(data: State, state: State, steps: jax.Array) -> tuple[jax.Array, State, jax.Array]:
    """At most `steps` iterations: how many, the new state, and a line of `_evaluate`'s sums for each, `[CHUNK, 4]`."""

    def unfinished(carry: tuple[jax.Array, State, jax.Array]) -> jax.Array:
        return (carry[0] < steps) & ~carry[1]["converged"].all()

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
    _, length, *_ = jax.lax.while_loop(unfinished, try_one, (0, one, 0 * one, 8 * one, state["converged"]))
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
        "kernel": _product(errors - data["q"] * state["logits"], data["rows"]) + state["kernel"],
        "bias": errors.sum(-1) / data["scale"],
    }
    norm = jnp.sqrt(_per_member(gradient["kernel"] ** 2) + (gradient["bias"] ** 2).sum(1))
    loss = (data["weights"] * losses).sum(1)
    hits = logits.argmax(1) == data["labels"]
    sums = [loss[-1], hits[-1].sum(), (data["answers"] * losses).sum(), (data["answers"] * hits).sum()]
    converged = norm <= jnp.maximum(data["tolerance"] * loss, FLOOR)
    return state | {"gradient": gradient, "converged": converged}, jnp.stack([jnp.float32(sum) for sum in sums])


def _logits(data: State, kernel: jax.Array) -> jax.Array:
    """Without the bias: `[members, classes, m]` -> `[members, classes, n]`."""
    return _product(kernel, data["across"])


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """One large product for all members: `[members, classes, k]`, `[k, l]` -> `[members, classes, l]`."""
    flat = jnp.matmul(left.reshape(-1, left.shape[-1]), right, precision=jax.lax.Precision.HIGHEST)
    return flat.reshape(*left.shape[:2], -1)


def _per_member(values: jax.Array) -> jax.Array:
    return values.sum((1, 2))
