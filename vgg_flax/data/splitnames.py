"""Names of folders that mean a split: `training_set`, `Train Images`, `seg_train`, `test1`, ..."""

from __future__ import annotations

import re
from typing import NamedTuple

from vgg_flax.settings import SPLITS

SYNONYMS = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "evaluation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
WITHOUT_LABELS = ("pred", "preds", "predict", "prediction", "predictions", "unlabelled", "unlabeled", "inference")
MEANINGS = {**SYNONYMS, **dict.fromkeys(WITHOUT_LABELS, "unlabelled"), "fold": "fold"}
FILLERS = (
    "set", "sets", "data", "dataset", "image", "images", "img", "imgs", "photo", "photos", "picture", "pictures",
    "split", "folder", "seg", "sample", "samples", "the", "my", "new", "all",
)  # fmt: skip
COMPOUND = re.compile(f"({'|'.join(sorted(MEANINGS, key=len, reverse=True))})(?:{'|'.join(FILLERS)})*")


class Role(NamedTuple):
    """What a folder's name says: train, val, test, unlabelled, fold, or several; and whether it says nothing else."""

    kind: str
    plain: bool


def role(name: str) -> Role | None:
    """What split a folder's name means, None where it means none. Case, separators and numbers don't matter."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = re.findall(r"[^\W\d_]+", spaced.lower())
    kinds, other = set(), False
    for word in words:
        if match := COMPOUND.fullmatch(word):
            kinds.add(MEANINGS[match[1]])
        else:
            other = other or word not in FILLERS
    return Role(" and ".join(sorted(kinds)), not other) if kinds else None


def is_split(name: str) -> bool:
    """Whether a folder is named train, val or test, in whatever words, and nothing else."""
    found = role(name)
    return found is not None and found.plain and found.kind in SPLITS
