"""A program that fills two row stores and checks every row it finds. A row's value follows from its key."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import numpy as np

from vgg_flax.cache import RowStore, cache_dir
from vgg_flax.files import sweep, write_atomic

COUNT, BATCH = 33, 8
STORES = (
    ("pooled", (5, 3), np.dtype(np.float32)),
    ("pictures", (), np.dtype([("pixels", np.uint8, (40, 40, 3)), ("scale", "<f8")])),
)


def value(key: bytes, store: RowStore) -> np.ndarray:
    """The row that belongs to `key`, pseudo-random bytes."""
    seed = int.from_bytes(key[:8], "little")
    size = int(np.prod(store.shape, dtype=int)) * store.dtype.itemsize
    return np.random.default_rng(seed).integers(0, 127, size, np.uint8).view(store.dtype).reshape(store.shape)


def stores() -> Iterator[RowStore]:
    """Those that the scenario fills."""
    for kind, shape, dtype in STORES:
        yield RowStore(kind, {"scenario": "rows"}, shape, dtype)


def keys() -> list[bytes]:
    """Of all rows."""
    return [hashlib.sha256(f"row {i}".encode()).digest() for i in range(COUNT)]


def fill(store: RowStore) -> None:
    """Add what is missing, and check what is not."""
    wanted = keys()
    for key, position in zip(wanted, store.find(wanted), strict=True):
        if position >= 0 and store.take(position).tobytes() != value(key, store).tobytes():
            raise SystemExit(f"{store.folder.name} has a wrong row at {position}")
    with store.filling(wanted) as missing:
        for start in range(0, len(missing), BATCH):
            chosen = [wanted[i] for i in missing[start : start + BATCH]]
            store.add(chosen, np.stack([value(key, store) for key in chosen]))


def main() -> None:
    """Start as every command does, fill, and write down a digest of all rows as they are read back."""
    folder = cache_dir().parent
    sweep(folder)
    sha = hashlib.sha256()
    for store in stores():
        fill(store)
        sha.update(store.rows(keys())[:].tobytes())
    write_atomic(folder / f"result-{os.environ.get('CRASH_ROLE', 'victim')}", sha.hexdigest())
