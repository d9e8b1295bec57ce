"""What silence buys: the precision of a model that answers only where it is sure."""

from __future__ import annotations

import numpy as np


def coverage_curve(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The precision of answers to only the surest pictures, for every number of them.

    Args:
      probabilities: float32 `[n, classes]`, n at least 1.
      labels: int `[n]`.

    Returns:
      (coverage, precision): float64 `[m]` each, from few pictures to all; pictures of equal probability are answered
      together. El-Yaniv and Wiener, JMLR 11 (2010), call it the risk-coverage curve.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    order = np.argsort(-confidence, kind="stable")
    counts, last = np.arange(1, len(order) + 1), np.append(np.diff(confidence[order]) < 0, True)
    return (counts / len(order))[last], (np.cumsum(right[order]) / counts)[last]
