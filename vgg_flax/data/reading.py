"""The pictures of a data set, looked at and decoded, each content once for all runs."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import cv2
import numpy as np

from vgg_flax.cache import RowStore
from vgg_flax.console import bar
from vgg_flax.data import copies, decode
from vgg_flax.data.dataset import Dataset
from vgg_flax.data.prefetch import prefetch
from vgg_flax.errors import BadImage
from vgg_flax.network import preprocess
from vgg_flax.network.spec import Preprocessing

T = TypeVar("T")
CHUNK_BYTES = 16 * 2**20  # of decoded pictures that are kept at a time


@dataclasses.dataclass(frozen=True)
class Seen:
    """An encoded picture, looked at but not decoded: SHA-256 and short side in pixels; or what is wrong with it."""

    content: str | None = None
    short_side: int | None = None
    reason: str | None = None


def look_at(dataset: Dataset, check: Callable[[], None]) -> list[Seen]:
    """Read every file once. `check` is called between files; may raise to stop."""

    def look(data: bytes) -> Seen:
        return Seen(hashlib.sha256(data).hexdigest(), decode.short_side(data))

    return read_each(dataset, look, lambda reason: Seen(reason=reason), check)


def read_each(
    dataset: Dataset, look: Callable[[bytes], T], refuse: Callable[[str], T], check: Callable[[], None]
) -> list[T]:
    """What `look` makes of the bytes of each file, read once, by threads; `refuse` of the reason why there are none."""

    def one(index: int) -> T:
        try:
            return look(dataset.read(index))
        except BadImage as bad:
            return refuse(str(bad))

    found = []
    with bar("reading files", len(dataset.names), summary=False) as advance:
        for seen in prefetch(one, len(dataset.names)):
            check()
            found.append(seen)
            advance(1)
    return found


def two_labels(dataset: Dataset, seen: Sequence[Seen]) -> dict[int, str]:
    """{index: reason} of the pictures whose bytes are there under another label as well."""
    places: dict[str, list[int]] = collections.defaultdict(list)
    for index, one in enumerate(seen):
        if one.content:
            places[one.content].append(index)
    reasons = {}
    for same in places.values():
        if len({int(dataset.labels[index]) for index in same}) > 1:
            for index in same:
                other = next(i for i in same if dataset.labels[i] != dataset.labels[index])
                label = dataset.classes[dataset.labels[other]]
                reasons[index] = f"the same bytes as {dataset.names[other]!r}, which has the label {label!r}"
    return reasons


def decode_all(
    dataset: Dataset,
    seen: Sequence[Seen],
    how: Preprocessing,
    reasons: Mapping[int, str],
    check: Callable[[], None] = lambda: None,
) -> tuple[RowStore, dict[int, str], int]:
    """Decode every picture that no earlier run decoded.

    Args:
      how: their size and region.
      reasons: {index: why} of pictures that are left out already.
      check: called between pictures; may raise to stop.

    Returns:
      (Where the pictures are, {index: why} of those that can't be decoded, how many were decoded now).
    """
    store, size = picture_store(how), how.image_size
    whole = [index for index in range(len(seen)) if index not in reasons]
    keys = content_keys([seen[index].content or "" for index in whole])
    chunk = max(1, CHUNK_BYTES // (size * size * 3))
    pending: dict[bytes, np.ndarray] = {}
    wrong: dict[str | None, str] = {}
    decoded = 0

    def load(index: int) -> np.ndarray | str:
        try:
            return _row(dataset.read(index), how, store.dtype)
        except BadImage as bad:
            return str(bad)

    def keep() -> None:
        if pending:
            store.add(list(pending), np.stack(list(pending.values())))
        pending.clear()

    with store.filling(keys, check) as missing, bar("decoding pictures", len(missing)) as advance:
        for k, row in zip(missing, prefetch(lambda i: load(whole[missing[i]]), len(missing)), strict=True):
            check()
            if isinstance(row, str):
                wrong[seen[whole[k]].content] = row
            else:
                pending[keys[k]], decoded = row, decoded + 1
            if len(pending) == chunk:
                keep()
            advance(1)
        keep()
    return store, {index: wrong[seen[index].content] for index in whole if seen[index].content in wrong}, decoded


def _row(data: bytes, preprocessing: Preprocessing, dtype: np.dtype) -> np.ndarray:
    image, depth = decode.decode_with_depth(data)
    row = np.empty((), dtype)
    row["depth"] = depth
    row["hash"] = copies.difference_hash(image)
    row["image"] = preprocess.resize(image, preprocessing)
    return row


def picture_store(how: Preprocessing) -> RowStore:
    """Where decoded pictures of one size are kept with their difference hashes, found by their content."""
    size = how.image_size
    about = {
        "image_size": size,
        "resize": how.resize,
        "region": how.region,
        "opencv": cv2.__version__,
        "versions": {"decode": decode.VERSION, "preprocess": preprocess.VERSION, "copies": copies.VERSION},
    }
    row = np.dtype(
        [("hash", np.uint8, (copies.HASH_BYTES,)), ("depth", np.uint8), ("image", np.uint8, (size, size, 3))]
    )
    return RowStore("pictures", about, (), row)


def content_keys(contents: Sequence[str]) -> list[bytes]:
    """SHA-256 in hexadecimal -> keys of rows."""
    return [bytes.fromhex(content) for content in contents]
