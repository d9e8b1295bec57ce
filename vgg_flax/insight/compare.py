"""Runs side by side: on the test photos that all share, which is better, and whether that can be chance."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vgg_flax.answers.predictions import Predictions
from vgg_flax.console import counted

METRICS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "loss": "log loss",
    "brier": "Brier score",
    "ece": "calibration error",
}
OTHER_SCALE = ("loss", "brier")  # these are no shares


@dataclasses.dataclass(frozen=True)
class Shared:
    """The test photos that several runs have in common, found by content.

    Attributes:
      names: str `[m]`, as in the first run.
      truths: str `[m]`, classes.
      answers: str `[m, runs]`, the label that each run gives.
      rows: int64 `[m]`, of the first run's table.
      contested: how many more they share, but under different classes; these are compared nowhere.
    """

    names: np.ndarray
    truths: np.ndarray
    answers: np.ndarray
    rows: np.ndarray
    contested: int

    @property
    def right(self) -> np.ndarray:
        """Whether each run's label is the class: bool `[m, runs]`."""
        return self.answers == self.truths[:, None]

    @property
    def differ(self) -> np.ndarray:
        """The photos on which labels differ: int64 `[k]`, numbers below m."""
        return np.flatnonzero((self.answers != self.answers[:, :1]).any(1))


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two runs on the photos that they share.

    Attributes:
      first, second: their numbers.
      only_first, only_second: photos that one of the two alone has right.
      p: of McNemar's exact test, two-sided: how often chance alone makes two equally good runs differ so much.
      corrected: the same by Holm's method: however many pairs are compared, equally good runs are all found to be that
        with so little chance of a mistake.
    """

    first: int
    second: int
    only_first: int
    only_second: int
    p: float
    corrected: float


def share(tables: Sequence[Predictions]) -> Shared:
    """The photos that all tables hold; of a content that a table holds twice, its first row.

    Args:
      tables: two or more, of test photos.
    """
    where = [{str(content): row for row, content in reversed([*enumerate(one.contents)])} for one in tables]
    common = [content for content in where[0] if all(content in one for one in where)]
    common.sort(key=lambda content: where[0][content])
    rows = np.array([[one[content] for one in where] for content in common], np.int64).reshape(-1, len(tables))
    truths = np.stack([one.classes[one.labels[rows[:, i]]] for i, one in enumerate(tables)], 1)
    answers = np.stack([one.classes[one.logits[rows[:, i]].argmax(-1)] for i, one in enumerate(tables)], 1)
    agreed = (truths == truths[:, :1]).all(1)
    first = rows[agreed, 0]
    return Shared(tables[0].names[first], truths[agreed, 0], answers[agreed], first, int((~agreed).sum()))


def pairs(shared: Shared) -> list[Pair]:
    """Every two runs compared; none where no test photo is shared.

    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12 (1947),
    exact: of the photos that one run alone has right, either has half, but for chance.
    """
    from scipy.stats import binomtest  # slow to import

    right, found = shared.right, []
    for i, j in itertools.combinations(range(right.shape[1]) if len(right) else (), 2):
        one, other = int((right[:, i] & ~right[:, j]).sum()), int((right[:, j] & ~right[:, i]).sum())
        p = float(binomtest(one, one + other).pvalue) if one + other else 1.0
        found.append(Pair(i, j, one, other, p, p))
    corrected = holm([pair.p for pair in found])
    return [dataclasses.replace(pair, corrected=p) for pair, p in zip(found, corrected, strict=True)]


def holm(ps: Sequence[float]) -> list[float]:
    """p-values of several comparisons, corrected so that among true hypotheses one is rejected at a rate of p at most.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979): the
    least is multiplied by how many there are, the next one by one less, and none comes out below one before it.
    """
    corrected, least = [0.0] * len(ps), 0.0
    for place, number in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - place) * ps[number]))
        corrected[number] = least
    return corrected


def differing(settings: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """{setting: its value in each run} of those that all have and that are not the same in all."""
    common = [name for name in settings[0] if all(name in one for one in settings)]
    values = {name: [one[name] for one in settings] for name in common}
    return {name: found for name, found in values.items() if any(one != found[0] for one in found)}


def all_in_words(pairs: Sequence[Pair], names: Sequence[str]) -> list[str]:
    """What comparisons say, a sentence each, and how their p-values were corrected."""
    said = [in_words(pair, names) for pair in pairs]
    if len(pairs) > 1:
        said.append(f"Each p is corrected for the {len(pairs)} comparisons by Holm's method.")
    return said


def in_words(pair: Pair, names: Sequence[str]) -> str:
    """What a comparison says, in a sentence."""
    first, second = names[pair.first], names[pair.second]
    if pair.only_first == pair.only_second == 0:
        return f"{first} and {second} are right on the same photos."
    how = "can be chance" if pair.corrected > 0.05 else "is hardly chance"
    return (
        f"{first} alone is right on {counted(pair.only_first, 'photo')}, {second} alone on {pair.only_second}: "
        f"that {how} (McNemar's exact test, p = {pair.corrected:.2g})."
    )


def figures(tests: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Rows of a table: a metric in words, and for each run its value with the 95 % interval.

    Args:
      tests: as `metrics.evaluate` gives them.
    """
    rows = []
    for metric, title in METRICS.items():
        cells = []
        for test in tests:
            values = [test.get(metric), *test.get(f"{metric}_95", ())]
            number, *interval = [_number(value, metric) for value in values]
            cells.append(f"{number} ({interval[0]} to {interval[1]})" if interval else number)
        rows.append((title, cells))
    judged = [test.get("judged") or {} for test in tests]
    rows.append(("given a plain label", [_number(one.get("coverage"), "coverage") for one in judged]))
    rows.append(("right among these", [_number(one.get("precision"), "precision") for one in judged]))
    rows.append(("test photos", [str(test["count"]) for test in tests]))
    return rows


def _number(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if metric in OTHER_SCALE else f"{value:.2%}"
