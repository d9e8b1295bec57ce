"""Copies and near-copies as findings: which contradict each other, which straddle splits, which are only too many."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from vgg_flax.console import counted
from vgg_flax.data.dataset import Dataset
from vgg_flax.insight.copies import Pair, groups_of
from vgg_flax.insight.findings import FIRST, LOOK, TEACHES, Finding

ABOUT = {
    "contradictions": (
        FIRST,
        "of the same photo, or nearly, under two labels",
        "Decide which label is right and remove the other: the model can't learn both.",
    ),
    "across_splits": (
        FIRST,
        "of the same photo, or nearly, in two splits",
        "Remove the copies from train: what is tested must not be learned.",
    ),
    "exact_copies": (LOOK, "of the same bytes", "Keep one of each group."),
    "near_copies": (
        TEACHES,
        "of near-copies (encoded again, scaled, cropped, mirrored or turned a little)",
        "Keep one of each group: with copies in train and test the test is too easy.",
    ),
}
COLUMNS = ("group", "file", "label", "split", "copy", "likeness", "mirrored")


@dataclasses.dataclass(frozen=True)
class Copies:
    """Pictures that are the same, or nearly.

    Attributes:
      unique: str `[u]`, contents, sorted.
      first: int `[u]`, the first picture of each content.
      inverse: int `[n]`, the content of each picture.
      pairs: of contents that are near-copies.
      rows, distances: int and float32 `[u, 5]`, the nearest contents.
      groups: str `[n]`, the same for pictures that must share a fold: copies, and what the user names.
    """

    unique: np.ndarray
    first: np.ndarray
    inverse: np.ndarray
    pairs: tuple[Pair, ...]
    rows: np.ndarray
    distances: np.ndarray
    groups: np.ndarray

    @functools.cached_property
    def numbers(self) -> np.ndarray:
        """Number of each picture's group of copies: int `[n]`."""
        return groups_of(list(self.pairs), len(self.unique))[self.inverse]

    @functools.cached_property
    def best(self) -> dict[int, Pair]:
        """For each content with near-copies the pair that is most alike."""
        found: dict[int, Pair] = {}
        for pair in sorted(self.pairs, key=lambda pair: pair.likeness):
            found[pair.first] = found[pair.second] = pair
        return found


def about_copies(same: Copies, dataset: Dataset, kept: np.ndarray) -> list[Finding | None]:
    """Contradictions, copies across splits, other copies and near-copies; a group is in the first that it belongs to.

    Args:
      same: of the kept.
      kept: int `[n]`, places in the data set.
    """
    given, splits = dataset.labels[kept], dataset.own_splits[kept]
    members: dict[int, list[int]] = {}
    for i, number in enumerate(same.numbers):
        members.setdefault(int(number), []).append(i)
    kinds: dict[str, list[list[int]]] = {
        "contradictions": [],
        "across_splits": [],
        "exact_copies": [],
        "near_copies": [],
    }
    for some in members.values():
        if len(some) > 1:
            if len(set(given[some])) > 1:
                kinds["contradictions"].append(some)
            if len(set(splits[some])) > 1:
                kinds["across_splits"].append(some)
            contents = same.inverse[some]
            if len(set(contents)) < len(some):
                kinds["exact_copies"].append([i for i in some if (contents == same.inverse[i]).sum() > 1])
            if len(set(contents)) > 1:
                kinds["near_copies"].append(some)
    found = []
    for kind, groups in kinds.items():
        found.append(_finding(kind, groups, same, dataset, kept) if groups else None)
    return found


def _finding(kind: str, groups: Sequence[list[int]], same: Copies, dataset: Dataset, kept: np.ndarray) -> Finding:
    rows = []
    for number, some in enumerate(groups, 1):
        for i in some:
            at, best = kept[i], same.best.get(int(same.inverse[i]))
            exact = (same.inverse[some] == same.inverse[i]).sum() > 1
            likeness, mirrored = (best.likeness, best.mirrored) if best and not exact else (1.0, False)
            label, split = dataset.classes[dataset.labels[at]], str(dataset.own_splits[at])
            rows.append((number, dataset.names[at], label, split, "exact" if exact else "near", likeness, mirrored))
    urgency, what, advice = ABOUT[kind]
    example = f"{dataset.names[kept[groups[0][0]]]} and {dataset.names[kept[groups[0][-1]]]}"
    text = f"{counted(len(rows), 'photo')} in {counted(len(groups), 'group')} {what}, such as {example}."
    return Finding(kind, len(rows), urgency, text, advice, COLUMNS, tuple(rows))
