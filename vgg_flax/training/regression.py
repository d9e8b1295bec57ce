"""The head that folds choose: L2-regularised softmax regression on pooled block outputs, fitted to convergence.

`choose` finds by cross-validation which columns to read and how strongly to regularise; `fit` then fits the models of
all folds and that of all rows together, so that every row has logits of a model that has not seen it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits

from vgg_flax.answers.scores import cross_entropy, fit_temperature
from vgg_flax.network.params import Params
from vgg_flax.training.solver import Problem

STRENGTHS = (1.0, 0.1, 0.01, 0.001)  # for two classes, from strong to weak; halving the steps bought nothing on test
CLEAR = 0.01  # relative: a rise of the loss that ends a path
PATIENCE = 2  # strengths in a row that don't lower it by as much end a path, too
# How much a row bends the loss, of what it does where nothing is decided: the surer the predictions, the less. Strongly
# regularised ones stay unsure.
STRONG, WEAK = 0.2, 0.03
# A fit has converged where the norm of its gradient, in the scaled coordinates, is at most the first times the training
# loss or the second. To float32, 1e-5 is little more than zero.
CHOICE, FINAL = (0.05, 1e-4), (0.001, 1e-5)

# OpenBLAS's threads wait for each other by spinning, which on a busy machine makes small products tenfold slower.
one_blas_thread = threadpool_limits.wrap(limits=1, user_api="blas")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A set of columns and a strength of the regularisation, as the folds judge it.

    Attributes:
      columns: name of the set.
      width: number of columns in it.
      strength: coefficient of |kernel|^2 / 2 beside the mean loss; scikit-learn's C is 1 / (strength * rows), and twice
        that for two classes, where it has one kernel instead of two opposite ones.
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


@one_blas_thread
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
      strength: of the regularisation; unset: a path from strong to weak.
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
    strengths = 4 * _undecided(classes) * np.array(STRENGTHS) if strength is None else np.array([strength])
    candidates: list[Candidate] = []
    for name, columns in column_sets.items():
        problem = Problem(pooled[:, columns], labels, classes, teaches, answers, check, advance)
        candidates += _path(problem, name, strengths, iterations)
    return sorted(candidates, key=lambda candidate: (candidate.loss, candidate.width, -candidate.strength))


@one_blas_thread
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
    problem = Problem(features, labels, classes, teaches, answers, check, advance)
    curvature = np.full(len(labels), WEAK * _undecided(classes))
    state, log = problem.solve(strength, curvature, None, FINAL, iterations)
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


def _path(problem: Problem, name: str, strengths: np.ndarray, iterations: int) -> list[Candidate]:
    """From strong to weak, each fit starting where the last two point to, until the loss has risen or falls no more."""
    candidates: list[Candidate] = []
    state, start, lowest, waited = None, None, np.inf, 0
    bend = _undecided(problem.classes)
    curvature = np.full(problem.rows, STRONG * bend)
    for strength in strengths:
        last = state
        state, log = problem.solve(strength, curvature, start, CHOICE, iterations)
        curvature = _curvature(state["logits"], 0.01 * WEAK * bend)
        # Equal steps of the logarithm of the strength move the kernel by about the same: half the iterations.
        start = {key: 2 * state[key] - last[key] for key in ("weights", "bias")} if last else state
        candidates.append(_judge(problem, state["logits"], name, float(strength), len(log)))
        loss = candidates[-1].loss
        waited = 0 if loss < lowest * (1 - CLEAR) else waited + 1
        if waited == PATIENCE or loss > lowest * (1 + CLEAR):
            break
        lowest = min(lowest, loss)
    return candidates


def _curvature(logits: np.ndarray, least: float) -> np.ndarray:
    """How much each row bends the loss: the mean of p (1 - p) over members and classes, `[n]`."""
    p = np.exp(log_softmax(logits, axis=1))
    return np.maximum((p * (1 - p)).mean((0, 1), dtype=np.float64), least)


def _undecided(classes: int) -> float:
    """p (1 - p) where all classes are equally likely: 1/4 for two, and not 0 for one."""
    return (1 - 1 / max(classes, 2)) / max(classes, 2)


def _judge(problem: Problem, logits: np.ndarray, name: str, strength: float, iterations: int) -> Candidate:
    member, row = np.nonzero(problem.answers)
    logits, labels = logits[member, :, row], problem.labels[row]
    temperature = _temperature(logits, labels)
    loss, accuracy = cross_entropy(logits / temperature, labels), float((logits.argmax(-1) == labels).mean())
    return Candidate(name, problem.columns, strength, loss, accuracy, temperature, iterations)


def _temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """`fit_temperature`, without its search where the slope at 1 says that only a sharper one would help."""
    slope = (np.exp(log_softmax(logits, axis=-1)) * logits).sum(-1) - logits[np.arange(len(labels)), labels]
    return fit_temperature(logits, labels) if slope.mean() > 0 else 1.0
