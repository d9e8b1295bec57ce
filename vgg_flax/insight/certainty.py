"""How far probabilities can be trusted: how often answers of some probability are right, and what silence buys."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share, by Wilson's score; (0, 1) of nothing."""
    from scipy.stats import binomtest  # slow to import

    if not count:
        return 0.0, 1.0
    interval = binomtest(right, count).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


@dataclasses.dataclass(frozen=True)
class Bin:
    """Pictures whose label got a probability above `low` and up to `high`.

    Attributes:
      probability: the mean, of their labels.
      right: the share that is right; `interval` is its 95 % interval.
      count: how many there are.
    """

    low: float
    high: float
    probability: float
    right: float
    interval: tuple[float, float]
    count: int


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> list[Bin]:
    """The bins of equal width that are not empty.

    Args:
      probabilities: float32 `[n, classes]`.
      labels: int `[n]`.
    """
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for i in np.unique(place):
        some = place == i
        count, good = int(some.sum()), int(right[some].sum())
        mean = float(confidence[some].mean())
        found.append(Bin(i / bins, (i + 1) / bins, mean, good / count, wilson(good, count), count))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error: the mean gap between probability and share right, weighted by pictures."""
    return sum(one.count * abs(one.probability - one.right) for one in bins) / sum(one.count for one in bins)


def coverage_curve(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What precision an answer to only the surest pictures has, for every number of them.

    Args:
      probabilities: float32 `[n, classes]`.
      labels: int `[n]`.

    Returns:
      (coverage, precision, least probability): float64 `[m]` each, from few pictures to all; pictures of equal
      probability are answered together.
    """
    confidence, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    ends = np.append(confidence[order][1:] < confidence[order][:-1], True) if len(order) else np.zeros(0, bool)
    return (counts / max(1, len(order)))[ends], (np.cumsum(right[order]) / counts)[ends], confidence[order][ends]
