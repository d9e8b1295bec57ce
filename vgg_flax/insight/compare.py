"""Runs side by side: on the test photos that they share, which is better, and whether that can be chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vgg_flax.answers.predictions import Predictions


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two runs on the photos that both were tested on.

    Attributes:
      shared: how many those are; they are found by content.
      first, second: accuracy of either on them; None where there are none.
      only_first, only_second: photos that one run alone has right.
      p: of McNemar's exact test, two-sided: how likely a difference as large is if both are equally good.
      rows: int `[m, 2]`: rows of the photos on which the labels differ, in the tables that were compared.
      truths_differ: shared photos that stand under another class in each run; they are left out of all above.
    """

    shared: int
    first: float | None
    second: float | None
    only_first: int
    only_second: int
    p: float
    rows: np.ndarray
    truths_differ: int


def compare(first: Predictions, second: Predictions) -> Pair:
    """Compare the answers of two runs, class by name, photo by content.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12 (1947),
    exact: of the photos that one run alone has right, half should be the first's.

    Args:
      first, second: of the test photos.
    """
    from scipy.stats import binomtest  # slow to import

    where = {str(content): row for row, content in reversed([*enumerate(second.contents)])}
    common, seen = [], set()
    for row, content in enumerate(map(str, first.contents)):
        if content in where and content not in seen:
            seen.add(content)
            common.append((row, where[content]))
    rows = np.array(common, np.int64).reshape(-1, 2)
    truth = [table.classes[table.labels[rows[:, i]]] for i, table in enumerate((first, second))]
    answers = [table.classes[table.logits[rows[:, i]].argmax(-1)] for i, table in enumerate((first, second))]
    same = truth[0] == truth[1]
    right = [answer[same] == truth[0][same] for answer in answers]
    only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    accuracies = [float(one.mean()) if len(one) else None for one in right]
    p = float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0
    differ = rows[same & (answers[0] != answers[1])]
    return Pair(int(same.sum()), *accuracies, *only, p, differ, int((~same).sum()))


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """{setting: its value in each run} of those that are not the same in all; None where a run has none."""
    names = dict.fromkeys(name for one in settings for name in one)
    values = {name: [one.get(name) for one in settings] for name in names}
    return {name: found for name, found in values.items() if any(one != found[0] for one in found)}
