"""What the drawings of a page show, as plain numbers that its template puts into SVG: x and y from 0 to 100."""

from __future__ import annotations

from typing import Any

import numpy as np

from vgg_flax.answers.judge import Judge
from vgg_flax.insight.certainty import calibration_error, coverage_curve, reliability, wilson

POINTS = 200  # of a curve, at most
CLASSES_IN_MATRIX = 25
PAIRS = 60  # of classes that are confused, in a list


def per_class(test: dict[str, Any], matrix: np.ndarray) -> list[dict[str, Any]]:
    """A row a class that was tested: the share of its photos that is recognised, with its interval; worst first.

    Args:
      test: as `metrics.evaluate` gives it.
      matrix: int `[classes, classes]`, rows are the truth.
    """
    rows = []
    for (name, one), right in zip(test["per_class"].items(), np.diag(matrix).tolist(), strict=True):
        if one["support"]:
            low, high = wilson(int(right), one["support"])
            rows.append({"name": name, "low": low, "high": high, **one})
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


def trust(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """The reliability diagram: `bins` of `certainty.reliability`, and the expected calibration error `ece`."""
    bins = reliability(probabilities, labels)
    return {"bins": bins, "ece": calibration_error(bins)}


def coverage(probabilities: np.ndarray, labels: np.ndarray, verdicts: np.ndarray, judge: Judge) -> dict[str, Any]:
    """Coverage against precision: `points` of the curve, its lowest precision `floor`, and what the judge makes of it.

    Args:
      probabilities: float32 `[n, classes]`.
      labels: int `[n]`.
      verdicts: str `[n]`.
    """
    share, precision, _ = coverage_curve(probabilities, labels)
    kept = np.unique(np.linspace(0, len(share) - 1, POINTS).round().astype(int))
    plain = verdicts == "label"
    right = int((probabilities.argmax(1) == labels)[plain].sum())
    floor = np.floor(10 * min(float(precision.min()), judge.min_precision)) / 10
    floor = max(0.0, floor if floor < 1 else 0.9)
    points = [(100 * share[i], 100 * (precision[i] - floor) / (1 - floor)) for i in kept]
    count = int(plain.sum())
    return {
        "points": " ".join(f"{x:.2f},{100 - y:.2f}" for x, y in points),
        "floor": floor,
        "wanted": 100 * (judge.min_precision - floor) / (1 - floor),
        "count": len(labels),
        "plain": count,
        "share": count / len(labels),
        "precision": right / count if count else None,
        "height": 100 * (right / count - floor) / (1 - floor) if count and right / count >= floor else None,
        "interval": wilson(right, count),
        "unsure": int((verdicts == "unsure").sum()),
        "unlike": int((verdicts == "unlike").sum()),
    }
