"""Which pictures are most alike by the network's features, and which are like no other."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

from vgg_flax.answers.judge import NEIGHBOURS, nearest_rows, unit_rows

ODDS = 1 / 2_000  # how seldom a picture would be so far away if the distances were lognormal


def nearest(
    features: np.ndarray, count: int = NEIGHBOURS, others: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The pictures most alike to each, itself left out.

    Args:
      features: float32 `[n, channels]`, such as averages of block 5.
      count: at most so many; never more than n - 1.
      others: float32 `[n, channels]`, the same pictures changed, which are searched instead; unset: the features.

    Returns:
      (indices int64 `[n, count]`, nearest first; squared distances of the rows scaled to length 1, float32).
    """
    units = unit_rows(features)
    searched = units if others is None else unit_rows(others)
    return nearest_rows(units, searched, max(0, min(count, len(units) - 1)), np.arange(len(units)))


def outliers(distances: np.ndarray) -> np.ndarray:
    """Pictures far from all others, the farthest first: int64 `[m]`.

    The logarithm of the distance to the 5th nearest is compared with its median, in units of its spread in the middle
    two thirds of the pictures, on the wider side: a few outliers don't move either.

    Args:
      distances: `[n]`, squared, of each picture from the 5th nearest, in any unit.
    """
    if not len(distances):
        return np.empty(0, np.int64)
    logs = np.log(np.maximum(distances, 1e-6))
    low, middle, high = np.quantile(logs, (0.1587, 0.5, 0.8413))  # one deviation apart in a normal distribution
    limit = middle + float(norm.isf(ODDS)) * max(middle - low, high - middle, 0.05)
    far = np.flatnonzero(logs > limit)
    return far[np.argsort(-logs[far], kind="stable")]
