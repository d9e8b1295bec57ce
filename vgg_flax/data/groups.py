"""Pictures that must share one side of a split: the same bytes, nearly the same picture, or what the user names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

LEAST_LIMIT, LIMIT_SHARE = 10, 1 / 20  # of a class: a chain of near-copies larger than both is no set of copies


@dataclasses.dataclass(frozen=True)
class Groups:
    """Which pictures belong together.

    Attributes:
      names: str `[n]`, for each picture the least content of its group.
      copies: how many pictures have the bytes of another that stays.
      near: how many groups of different contents near-copies make.
      largest: contents in the largest of them, 0 where there is none.
      mixed: pictures (i, j), nearly the same, with different labels.
      chained: (label, size) of classes whose near-copies are ignored, with the size of the longest chain.
    """

    names: np.ndarray
    copies: int = 0
    near: int = 0
    largest: int = 0
    mixed: tuple[tuple[int, int], ...] = ()
    chained: tuple[tuple[int, int], ...] = ()


def find_groups(contents: np.ndarray, labels: np.ndarray, pairs: np.ndarray, keys: Sequence[np.ndarray] = ()) -> Groups:
    """Join pictures of the same content, near-copies, and pictures with the same key.

    Args:
      contents: str `[n]`.
      labels: int `[n]`.
      pairs: int `[m, 2]`, indices of pictures that are nearly the same; one picture may stand for all of its content.
      keys: each str `[n]`; pictures with the same key that is not "" belong together.
    """
    unique, first, content = np.unique(contents, return_index=True, return_inverse=True)
    label = labels[first]
    pairs = content[pairs]
    chained = _chained(pairs, label)
    pairs = pairs[~np.isin(label[pairs], [one for one, _ in chained]).any(1)]
    sizes = np.bincount(_components(pairs, len(unique)))
    edges = [pairs, *(_chain(content, key) for key in keys)]
    group = _components(np.concatenate(edges), len(unique))
    _, least = np.unique(group, return_index=True)  # `unique` is sorted, so the first content of a group is its least
    mixed = np.sort(first[pairs[label[pairs[:, 0]] != label[pairs[:, 1]]]], axis=1)
    return Groups(
        names=unique[least][group][content],
        copies=len(contents) - len(unique),
        near=int((sizes > 1).sum()),
        largest=int(sizes.max(initial=0)) if (sizes > 1).any() else 0,
        mixed=tuple(sorted((int(i), int(j)) for i, j in mixed)),
        chained=chained,
    )


def _components(pairs: np.ndarray, count: int) -> np.ndarray:
    """For each of `count` nodes the number of its connected component, int `[count]`."""
    ones = np.ones(len(pairs), np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def _chained(pairs: np.ndarray, label: np.ndarray) -> tuple[tuple[int, int], ...]:
    """(label, size) of each class in which near-copies chain into a group that is too large for copies."""
    component = _components(pairs, len(label))
    both, sizes = np.unique(np.stack([label, component], axis=1), axis=0, return_counts=True)
    found: dict[int, int] = {}
    totals = np.bincount(label, minlength=1)
    for (one, _), size in zip(both.tolist(), sizes.tolist(), strict=True):
        if size > max(LEAST_LIMIT, totals[one] * LIMIT_SHARE):
            found[one] = max(size, found.get(one, 0))
    return tuple(sorted(found.items()))


def _chain(content: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Pairs that join all contents of one key."""
    named = np.flatnonzero(keys != "")
    _, first, key = np.unique(keys[named], return_index=True, return_inverse=True)
    return np.stack([content[named[first[key]]], content[named]], axis=1)
