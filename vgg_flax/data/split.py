"""Which picture trains, which one validates, which one tests; and folds. A place depends on a picture's group alone.

u is a hash of (seed, group) in [0, 1): below the test share a group tests, below test + val share it validates, else
it trains. So adding, renaming or relabelling other pictures moves none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from vgg_flax.errors import UserError
from vgg_flax.settings import SplitSettings


def place(seed: int, group: str, purpose: str = "") -> float:
    """u in [0, 1) of a group, evenly spread. `purpose` makes an independent one."""
    digest = hashlib.sha256(f"{seed}:{purpose}{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign_splits(
    labels: np.ndarray,
    groups: np.ndarray,
    own_splits: np.ndarray,
    classes: Sequence[str],
    settings: SplitSettings,
) -> np.ndarray:
    """ "train", "val" or "test" for every picture.

    Splits that the data brings along stay as they are; those it lacks are drawn from the rest. A class that would lack
    a split gives its groups of the lowest u; one of two groups has no validation picture.

    Args:
      labels: int `[n]`.
      groups: str `[n]`; pictures of a group share their place.
      own_splits: `[n]` of "train", "val", "test", or "" (ours to choose).
      settings: its fractions are used for splits that the data does not bring along.

    Raises:
      UserError: a class has fewer than two groups to divide.
    """
    wanted = (("test", settings.test_split), ("val", settings.val_split))
    shares = {name: share for name, share in wanted if name not in own_splits}
    free = np.isin(own_splits, ("", "train"))
    places = {group: place(settings.seed, group) for group in np.unique(groups[free])}
    found = {group: _split_at(u, shares) for group, u in places.items()}
    for label, name in enumerate(classes):
        mine = sorted(set(groups[free & (labels == label)]), key=places.__getitem__)
        if len(mine) < (2 if shares else 1):
            count = int((free & (labels == label)).sum())
            joined = f" ({count} pictures that must stay together)" if count > len(mine) else ""
            raise UserError(
                f"class {name!r} has {len(mine)} different usable picture(s), expected at least 2{joined}: add photos."
            )
        if {found[group] for group in mine} != {"train", *shares}:
            _give_lowest(mine, found, shares)
    splits = own_splits.copy()
    splits[free] = [found[group] for group in groups[free]]
    return splits


def overlaps(groups: np.ndarray, own_splits: np.ndarray) -> dict[int, int]:
    """{index: its twin} of the pictures whose group is also among the user's own test, or else validation, pictures.

    The test stays whole, validation gives way to it, and training to both.

    Args:
      groups: str `[n]`.
      own_splits: `[n]` of "train", "val", "test", or "".
    """
    found: dict[int, int] = {}
    for split, below in (("test", ("", "train", "val")), ("val", ("", "train"))):
        first = {group: int(i) for i, group in reversed([*enumerate(groups)]) if own_splits[i] == split}
        for i in np.flatnonzero(np.isin(own_splits, below)):
            if groups[i] in first:
                found.setdefault(int(i), first[groups[i]])
    return dict(sorted(found.items()))


def _split_at(u: float, shares: dict[str, float]) -> str:
    limit = 0.0
    for split, share in shares.items():
        limit += share
        if u < limit:
            return split
    return "train"


def _give_lowest(mine: list[str], found: dict[str, str], shares: dict[str, float]) -> None:
    """Give a class, its groups in the order of u, at least one group in each split as far as they go: train first."""
    start = 0
    for after, split in zip(range(len(shares), 0, -1), shares, strict=True):  # how many splits come after this one
        left = len(mine) - start
        size = min(max(1, sum(found[group] == split for group in mine)), max(1, left - after), left - 1)
        for group in mine[start : start + size]:
            found[group] = split
        start += size
    for group in mine[start:]:
        found[group] = "train"


def assign_folds(labels: np.ndarray, groups: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Fold 0 to count - 1 for every picture: stratified, groups kept together, a class of m groups over m folds.

    Args:
      labels: int `[n]`.
      groups: str `[n]`.
    """
    fold_of: dict[str, int] = {}
    for label in np.unique(labels):
        mine = sorted(set(groups[labels == label]), key=lambda group: place(seed, group, "fold "))
        for group in mine:  # round and round, going on where the last class ended, so that folds are of one size
            fold_of.setdefault(group, len(fold_of) % count)
    return np.array([fold_of[group] for group in groups], np.int64)
