"""Which picture trains, which one validates, and which one tests."""

from __future__ import annotations

import numpy as np

from vgg_flax.errors import UserError
from vgg_flax.settings import TrainSettings


def assign_splits(
    labels: np.ndarray,
    own_splits: np.ndarray,
    contents: np.ndarray,
    classes: tuple[str, ...],
    config: TrainSettings,
) -> np.ndarray:
    """ "train", "val" or "test" for every picture, stratified by class and the same for the same seed.

    Splits that the data brings along stay as they are; those it lacks are drawn from the rest. Byte-identical
    copies of a picture always share a split, so that nothing is tested that was trained on. scikit-learn's
    stratified splitters refuse classes of two or three pictures, which people do have; hence our own.

    Args:
      labels: int `[n]`.
      own_splits: `[n]` of "train", "val", "test", or "" (ours to choose).
      contents: `[n]` digests of the encoded pictures.
      config: its fractions are used for splits that the data does not bring along.

    Raises:
      UserError: a class has fewer than two pictures to divide.
    """
    splits = own_splits.copy()
    splits[splits == ""] = "train"
    wanted = (("test", config.test_split), ("val", config.val_split))
    shares = {name: share for name, share in wanted if name not in own_splits}
    rng = np.random.default_rng(config.seed)
    for label, name in enumerate(classes):
        mine = np.flatnonzero((labels == label) & (splits == "train"))
        originals = rng.permutation(np.unique(contents[mine]))
        if len(originals) < (2 if shares else 1):
            raise UserError(
                f"class {name!r} has {len(originals)} different usable picture(s), expected at least 2: add photos."
            )
        start = 0
        for split, share in shares.items():
            room = len(originals) - start - 1  # one is left for training
            size = min(room, max(1, round(share * len(originals))))
            chosen = originals[start : start + size]
            splits[mine[np.isin(contents[mine], chosen)]] = split
            start += size
    return splits
