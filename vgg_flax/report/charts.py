"""What the drawings of a page show, as plain numbers that its template puts into SVG: x and y from 0 to 100."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vgg_flax.insight.coverage import coverage_curve
from vgg_flax.insight.metrics import wilson

POINTS = 200  # of a curve, at most
CLASSES_IN_MATRIX = 25
PAIRS = 60  # of classes that are confused, in a list


def per_class(test: dict[str, Any], matrix: np.ndarray) -> list[dict[str, Any]]:
    """The classes that were tested, the worst recall first.

    Args:
      test: as `metrics.evaluate` gives it.
      matrix: int `[classes, classes]`, rows are the truth.

    Returns:
      Of each class what `test` says, its `name`, and `cell`, that of the matrix in which it is recognised.
    """
    rows = [
        {"name": name, **one, "cell": {"truth": i, "predicted": i, "count": int(matrix[i, i])}}
        for i, (name, one) in enumerate(test["per_class"].items())
        if one["support"]
    ]
    return sorted(rows, key=lambda row: row["recall"])


def confusion(classes: list[str], matrix: np.ndarray) -> dict[str, Any]:
    """The matrix, or for many classes the pairs that are confused most.

    Returns:
      `rows`: for each class the cells of its row, {truth, predicted, count, share of the row}; empty where there are
      too many classes. `pairs`: such cells off the diagonal, the most photos first, at most PAIRS; `more`: how many
      others there are.
    """
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)

    def cell(i: int, j: int) -> dict[str, Any]:
        return {"truth": i, "predicted": j, "count": int(matrix[i, j]), "share": float(shares[i, j])}

    off = [(int(i), int(j)) for i, j in np.argwhere(matrix) if i != j]
    off.sort(key=lambda pair: -matrix[pair])
    few = len(classes) <= CLASSES_IN_MATRIX
    rows = [[cell(i, j) for j in range(len(classes))] for i in range(len(classes))] if few else []
    return {"rows": rows, "pairs": [cell(*pair) for pair in off[:PAIRS]], "more": max(0, len(off) - PAIRS)}


def reliability(bins: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The bins of `metrics.reliability` with the 95 % interval of each one's accuracy, `interval`, and `width`."""
    return [
        {**one, "width": 1 / count, "interval": wilson(round(one["accuracy"] * one["count"]), one["count"])}
        for one in bins
    ]


def coverage(probabilities: np.ndarray, labels: np.ndarray, judged: dict[str, Any], wanted: float) -> dict[str, Any]:
    """Coverage against precision, scaled to the lowest precision of the curve, `floor`.

    Args:
      probabilities: float32 `[n, classes]`.
      labels: int `[n]`.
      judged: as `metrics.evaluate` gives it: what comes of the judge's own threshold.
      wanted: precision that the judge was to reach.

    Returns:
      `points` of the curve, in SVG's notation; `wanted`, and `mark` for the judge, as heights; None outside.
    """
    share, precision = coverage_curve(probabilities, labels)
    least = min(wanted, *precision, *filter(None, [judged["precision"]]))
    floor = min(0.9, math.floor(10 * least) / 10)

    def height(value: float) -> float:
        return 100 * (value - floor) / (1 - floor)

    kept = np.unique(np.linspace(0, len(share) - 1, POINTS).round().astype(int))
    return {
        "points": " ".join(f"{100 * share[i]:.2f},{100 - height(float(precision[i])):.2f}" for i in kept),
        "floor": floor,
        "wanted": height(wanted),
        "mark": None if judged["precision"] is None else height(judged["precision"]),
    }
