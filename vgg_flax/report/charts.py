"""What the drawings of a page show, as plain numbers that its template puts into SVG: x and y from 0 to 100."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vgg_flax.insight.coverage import coverage_curve
from vgg_flax.insight.metrics import wilson

POINTS = 200  # of a curve, at most
CLASSES_IN_MATRIX = 25
PAIRS = 60  # of classes that are confused, in a list


def curves(log: Sequence[Mapping[str, float]], kept: int) -> list[dict[str, Any]]:
    """Loss and accuracy by epoch or iteration.

    Args:
      log: rows of metrics.csv.
      kept: number of the row that was kept, from 1.

    Returns:
      Of each metric its `name`; `train` and `val`, points in SVG's notation, and as `kept_train` and `kept_val` the
      values that were kept; `x` and `y` of the mark on `val`; `ticks`, (height, text) each; `first`, `last` and `kept`
      epoch. Nothing where there is no such row.
    """
    found = []
    first, last = (int(log[i]["epoch"]) for i in (0, -1)) if log else (0, 0)
    for name in ("loss", "accuracy") if 1 <= kept <= len(log) else ():
        values = np.array([[row[f"{split}_{name}"] for split in ("train", "val")] for row in log], np.float64)
        low, high, ticks = _axis(values[np.isfinite(values)], name)

        def place(row: int, column: int, values=values, low=low, high=high) -> tuple[float, float]:
            x = 100 * (log[row]["epoch"] - first) / (last - first) if last > first else 50.0
            return x, 100 * (high - values[row, column]) / (high - low)

        rows = [i for i in _thinned(len(log)) if np.isfinite(values[i]).all()]
        lines = [" ".join("{:.2f},{:.2f}".format(*place(i, column)) for i in rows) for column in (0, 1)]
        x, y = place(kept - 1, 1)
        heights = [(100 * (high - tick) / (high - low), text) for tick, text in ticks]
        found.append(
            {"name": name, "train": lines[0], "val": lines[1], "x": x, "y": y, "ticks": heights, "first": first}
            | {
                "last": last,
                "kept": int(log[kept - 1]["epoch"]),
                "kept_train": float(values[kept - 1, 0]),
                "kept_val": float(values[kept - 1, 1]),
            }
        )
    return found


def _axis(values: np.ndarray, name: str) -> tuple[float, float, list[tuple[float, str]]]:
    """(Lowest, highest, [(value, text)] of the ticks)."""
    least, most = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    if name == "accuracy":
        low = min(0.9, math.floor(10 * least) / 10)
        return low, 1.0, [(one, f"{100 * one:.3g}") for one in (low, (low + 1) / 2, 1.0)]
    rough = max(most, 1e-9) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough)
    count = math.ceil(most / step - 1e-9) or 1
    return 0.0, count * step, [(i * step, f"{i * step:.3g}") for i in range(count + 1)]


def _thinned(count: int) -> list[int]:
    """At most POINTS of so many numbers from 0, evenly, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int)).tolist()


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

    return {
        "points": " ".join(
            f"{100 * share[i]:.2f},{100 - height(float(precision[i])):.2f}" for i in _thinned(len(share))
        ),
        "floor": floor,
        "wanted": height(wanted),
        "mark": None if judged["precision"] is None else height(judged["precision"]),
    }
