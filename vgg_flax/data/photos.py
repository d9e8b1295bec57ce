"""The pictures of a data set, decoded, and which of them trains, validates and tests."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np

from vgg_flax.cache import RowStore
from vgg_flax.console import bar, say
from vgg_flax.data import decode, open_dataset
from vgg_flax.data.dataset import Dataset
from vgg_flax.data.prefetch import prefetch
from vgg_flax.data.split import assign_folds, assign_splits
from vgg_flax.errors import BadImage, UserError
from vgg_flax.network import preprocess
from vgg_flax.network.spec import Preprocessing
from vgg_flax.settings import SplitSettings, TrainSettings

USUAL_SIZE, SMALL_SIZE, DIGIT_SIZE = 224, 160, 64
SMALL_PHOTO = 200  # pixels: below this median short side SMALL_SIZE is enough, see docs/accuracy.md
CHUNK_BYTES = 16 * 2**20  # of decoded pictures that are kept at a time


@dataclasses.dataclass(frozen=True)
class Photos:
    """The usable pictures of a data set. Immutable: `with_splits` gives a new one.

    Attributes:
      source: what the user typed.
      classes: names, sorted; a label is an index into it.
      images: uint8 RGB `[n, size, size, 3]`, read from the disk when indexed.
      labels: int32 `[n]`.
      names: `[n]`, for tables and reports.
      contents: `[n]` SHA-256 of the encoded pictures, hexadecimal.
      groups: `[n]` the least content among the pictures that must share a split.
      splits: `[n]` "train", "val" or "test"; before `with_splits` "" where the data leaves it to us.
      bad: (name, reason) of the pictures that were left out.
      own_val: whether the validation pictures are the user's own choice.
      decoded: how many pictures had to be decoded now.
    """

    source: str
    classes: tuple[str, ...]
    images: Any
    labels: np.ndarray
    names: tuple[str, ...]
    contents: np.ndarray
    groups: np.ndarray
    splits: np.ndarray
    bad: tuple[tuple[str, str], ...] = ()
    own_val: bool = False
    decoded: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, *splits: str) -> np.ndarray:
        """Indices of the pictures in these splits, int64 `[m]`, in order."""
        return np.flatnonzero(np.isin(self.splits, splits))

    def with_splits(self, settings: SplitSettings) -> Photos:
        """The same pictures, every one in a split. Raises UserError when a class is too small."""
        splits = assign_splits(self.labels, self.groups, self.splits, self.classes, settings)
        return dataclasses.replace(self, splits=splits, own_val="val" in self.splits)

    def folds(self, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Fold of each of `rows` `[m]` for cross-validation: int64 `[m]`, 0 to count - 1."""
        return assign_folds(self.labels[rows], self.groups[rows], count, seed)

    @functools.cached_property
    def digest(self) -> str:
        """Of all contents, labels and splits, in order."""
        parts = [self.classes, self.contents.tolist(), self.labels.tolist(), self.splits.tolist()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load(settings: TrainSettings, check: Callable[[], None] = lambda: None) -> tuple[Photos, int]:
    """(The pictures that `--data` names, image size): listed, hashed, decoded unless an earlier run did, split.

    Raises:
      UserError: there is nothing to train on, or with `--strict` a picture can't be used.
    """
    dataset = open_dataset(settings.data)
    seen = _look_at(dataset, check)
    size = settings.image_size if settings.image_size != "auto" else _auto_size(dataset, seen)
    photos = decode_all(dataset, seen, size, strict=settings.split.strict, check=check)
    return photos.with_splits(settings.split), size


@dataclasses.dataclass(frozen=True)
class Seen:
    """An encoded picture, looked at but not decoded: SHA-256 and short side in pixels; or what is wrong with it."""

    content: str | None = None
    short_side: int | None = None
    reason: str | None = None


def _look_at(dataset: Dataset, check: Callable[[], None]) -> list[Seen]:
    def look(index: int) -> Seen:
        try:
            data = dataset.read(index)
        except BadImage as bad:
            return Seen(reason=str(bad))
        return Seen(hashlib.sha256(data).hexdigest(), decode.short_side(data))

    found = []
    with bar("reading files", len(dataset.names), summary=False) as advance:
        for seen in prefetch(look, len(dataset.names)):
            check()
            found.append(seen)
            advance(1)
    return found


def _auto_size(dataset: Dataset, seen: Sequence[Seen]) -> int:
    if dataset.source == "digits":
        return DIGIT_SIZE
    sides = [one.short_side for one in seen if one.short_side]
    if not sides or np.median(sides) >= SMALL_PHOTO:
        return USUAL_SIZE
    say(f"image size {SMALL_SIZE}: the photos' median short side is {np.median(sides):.0f} pixels")
    return SMALL_SIZE


def decode_all(
    dataset: Dataset,
    seen: Sequence[Seen],
    size: int,
    *,
    strict: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Photos:
    """Decode every picture that no earlier run decoded.

    Args:
      strict: raise UserError at the first bad picture instead of leaving it out.
      check: called between pictures; may raise to stop.
    """
    store, preprocessing = picture_store(size), Preprocessing(size)
    reasons = {index: one.reason for index, one in enumerate(seen) if one.reason}
    whole = [index for index in range(len(seen)) if index not in reasons]
    keys = _keys([seen[index].content or "" for index in whole])
    chunk = max(1, CHUNK_BYTES // (size * size * 3))
    pending: dict[bytes, np.ndarray] = {}
    wrong: dict[str | None, str] = {}
    decoded = 0

    def load(index: int) -> np.ndarray | str:
        try:
            return preprocess.resize(decode.decode(dataset.read(index)), preprocessing)
        except BadImage as bad:
            return str(bad)

    def keep() -> None:
        if pending:
            store.add(list(pending), np.stack(list(pending.values())))
        pending.clear()

    with store.filling(keys, check) as missing, bar("decoding pictures", len(missing)) as advance:
        for k, image in zip(missing, prefetch(lambda i: load(whole[missing[i]]), len(missing)), strict=True):
            check()
            if isinstance(image, str):
                wrong[seen[whole[k]].content] = image
            else:
                pending[keys[k]], decoded = image, decoded + 1
            if len(pending) == chunk:
                keep()
            advance(1)
        keep()
    reasons |= {index: wrong[one.content] for index, one in enumerate(seen) if one.content in wrong}
    if strict and reasons:
        index = min(reasons)
        raise UserError(
            f"{dataset.names[index]}: {reasons[index]}. Fix or remove it, or leave out --strict to go on without it."
        )
    return _photos(dataset, seen, store, reasons, decoded)


def _photos(dataset: Dataset, seen: Sequence[Seen], store: RowStore, reasons: dict[int, str], decoded: int) -> Photos:
    kept = [index for index in range(len(seen)) if index not in reasons]
    if not kept:
        raise UserError(
            f"none of the {len(seen)} pictures in {dataset.source} can be read: {next(iter(reasons.values()))}."
        )
    contents = [seen[index].content or "" for index in kept]
    return Photos(
        source=dataset.source,
        classes=dataset.classes,
        images=store.rows(_keys(contents)),
        labels=dataset.labels[kept],
        names=tuple(dataset.names[index] for index in kept),
        contents=np.array(contents),
        groups=np.array(contents),
        splits=dataset.own_splits[kept],
        bad=tuple((dataset.names[index], reasons[index]) for index in sorted(reasons)),
        decoded=decoded,
    )


def picture_store(size: int) -> RowStore:
    """Where decoded pictures of one size are kept, found by their content."""
    preprocessing = Preprocessing(size)
    about = {
        "image_size": size,
        "resize": preprocessing.resize,
        "opencv": cv2.__version__,
        "versions": {"decode": decode.VERSION, "preprocess": preprocess.VERSION},
    }
    return RowStore("pictures", about, (size, size, 3), np.uint8)


def _keys(contents: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(content) for content in contents]
