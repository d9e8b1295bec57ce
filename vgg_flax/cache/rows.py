"""Rows of arrays found by a digest: decoded pictures, features. Shared by processes, kept between runs.

Adding is all or nothing, whenever the process is killed. Where the disk is full or can't be written, new rows are
kept in memory instead, after one warning.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vgg_flax.cache.disk import KEY_BYTES, RowFiles
from vgg_flax.cache.folder import cache_dir, warn_unwritable
from vgg_flax.cache.memory import SHARE, MemoryRows, available_memory
from vgg_flax.console import say
from vgg_flax.errors import UserError

FORMAT = 1
POLL = 0.1  # seconds between two looks at whether another process is done
Positions = int | slice | Sequence[int] | np.ndarray


class RowStore:
    """Rows of one shape and dtype, each found by a key of 32 bytes. Any thread may call.

    Args:
      kind: of the rows, such as `pictures` or `block4`; part of the folder's name.
      about: all that determines a row but its key, as JSON types. Another `about` is another store.
      shape: of one row.
      dtype: of its elements; may have named fields.
    """

    def __init__(self, kind: str, about: Mapping[str, Any], shape: Sequence[int] = (), dtype: Any = np.float32):
        self.kind, self.shape, self.dtype = kind, tuple(shape), np.dtype(dtype)
        description = np.lib.format.dtype_to_descr(self.dtype)
        what = {"format": FORMAT, "kind": kind, "about": about, "shape": self.shape, "dtype": description}
        text = json.dumps(what, sort_keys=True)
        self.folder = cache_dir() / "rows" / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
        self._row_bytes = math.prod(self.shape) * self.dtype.itemsize
        self._mutex = threading.RLock()
        self._index: dict[bytes, int] = {}
        self._memory: MemoryRows | None = None
        self._expected = 0  # rows that were reserved and are still to come
        self._disk = RowFiles(self.folder, json.loads(text), self._row_bytes)
        self.refresh()
        self._give_back_of_the_dead()

    def __len__(self) -> int:
        return self._disk.count + (len(self._memory) if self._memory else 0)

    def refresh(self) -> None:
        """See what other processes added. Rows that can't be read are not there."""
        with self._mutex, contextlib.suppress(OSError):
            self._learn()

    def _learn(self) -> None:
        if self._memory is None:
            self._index.update(self._disk.new_keys())

    def find(self, keys: Sequence[bytes]) -> np.ndarray:
        """int64 `[n]`: the position of each key's row, -1 where there is none."""
        with self._mutex:
            return np.fromiter((self._index.get(key, -1) for key in keys), np.int64, len(keys))

    def take(self, positions: Positions, field: str | None = None) -> np.ndarray:
        """A copy of the rows at `positions`: `[n, *shape]`, of an integer `[*shape]`; each may come more than once."""
        if isinstance(positions, slice):
            positions = np.arange(*positions.indices(len(self)))
        wanted = np.asarray(positions, np.int64)
        with self._mutex:
            if wanted.size and not (wanted.min() >= 0 and wanted.max() < len(self)):
                raise IndexError(f"positions {wanted.min()} to {wanted.max()} in a store of {len(self)} rows")
            disk = self._disk.mapped().view(self.dtype).reshape(-1, *self.shape)
        disk = disk if field is None else disk[field]
        if self._memory is None or not wanted.size or wanted.max() < len(disk):
            return disk[wanted] if wanted.ndim else np.array(disk[wanted])
        flat = wanted.reshape(-1)
        out = np.empty((len(flat), *disk.shape[1:]), disk.dtype)
        kept = flat < len(disk)
        out[kept] = disk[flat[kept]]
        with self._mutex:
            self._memory.take(flat[~kept] - len(disk), field, out, np.flatnonzero(~kept))
        return out.reshape(*wanted.shape, *out.shape[1:])

    def rows(self, keys: Sequence[bytes], field: str | None = None) -> Rows:
        """The rows of `keys`, in their order, read when they are asked for. Raises KeyError if one is missing."""
        positions = self.find(keys)
        if len(positions) and positions.min() < 0:
            raise KeyError(f"{(positions < 0).sum()} of {len(keys)} rows are not in {self.folder}")
        return Rows(self, positions, field)

    def add(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Keep `rows` `[n, *shape]` under `keys`; those that are there already stay as they are.

        Raises:
          UserError: the disk can't take them and memory doesn't hold what was reserved.
        """
        if rows.shape != (len(keys), *self.shape) or rows.dtype != self.dtype:
            expected = f"{self.dtype} {[len(keys), *self.shape]}"
            raise ValueError(f"rows are {rows.dtype} {list(rows.shape)}, expected {expected}")
        if not all(len(key) == KEY_BYTES for key in keys):
            raise ValueError(f"keys have lengths {sorted({len(key) for key in keys})}, expected {KEY_BYTES}")
        with self._mutex:
            if self._memory is None:
                try:
                    return self._add_to_disk(keys, rows)
                except OSError as error:
                    self._go_on_in_memory(error)
            assert self._memory is not None
            new = self._new(keys)
            self._index.update((keys[i], len(self) + number) for number, i in enumerate(new))
            self._memory.append(rows[new])

    def _add_to_disk(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        with self._disk.locked():
            self._learn()
            if new := self._new(keys):
                start = self._disk.count
                self._disk.append([keys[i] for i in new], np.ascontiguousarray(rows[new]))
                self._index.update((keys[i], start + number) for number, i in enumerate(new))
        self._expected = max(0, self._expected - len(keys))

    def _new(self, keys: Sequence[bytes]) -> list[int]:
        """Where in `keys` each missing key comes first."""
        first = {key: i for i, key in reversed(list(enumerate(keys)))}
        return sorted(i for key, i in first.items() if key not in self._index)

    @contextlib.contextmanager
    def filling(self, keys: Sequence[bytes], check: Callable[[], None] = lambda: None) -> Iterator[np.ndarray]:
        """Compute missing rows while no other process does, in room that is reserved for them.

            with store.filling(keys, check) as missing:
                for chosen in batches(missing):
                    store.add([keys[i] for i in chosen], compute(chosen))

        Args:
          check: called while waiting for another process; may raise to stop.

        Yields:
          int64 `[m]`: where in `keys` each missing key comes first.

        Raises:
          UserError: neither the disk nor the memory has room for the rows.
        """
        self.refresh()
        if not self._new(keys):
            yield np.empty(0, np.int64)
            return
        with contextlib.ExitStack() as stack:
            self._claim(stack, check)
            self.refresh()
            missing = np.asarray(self._new(keys), np.int64)
            stack.callback(self._give_back)
            self.reserve(len(missing))
            yield missing

    def _claim(self, stack: contextlib.ExitStack, check: Callable[[], None]) -> None:
        said = False
        while self._memory is None:
            try:
                if lock := self._disk.claim():
                    stack.callback(lock.release)
                    return
            except OSError as error:
                with self._mutex:
                    return self._go_on_in_memory(error)
            if not said:
                say(f"another process is computing the same {self.kind}; waiting for it")
                said = True
            check()
            time.sleep(POLL)

    def reserve(self, count: int) -> None:
        """Make sure that there is room for `count` more rows, on the disk or else in memory. Raises UserError."""
        with self._mutex:
            self._expected = count
            if self._memory is not None:
                return self._check_memory()
            if not count:
                return
            try:
                with self._disk.locked():
                    self._learn()
                    self._disk.reserve(count)
            except OSError as error:
                self._go_on_in_memory(error)

    def _give_back(self) -> None:
        with self._mutex:
            self._expected = 0
            if self._memory is None:
                with contextlib.suppress(OSError), self._disk.locked():
                    self._learn()
                    self._disk.give_back()

    def _give_back_of_the_dead(self) -> None:
        """Room that a killed process had reserved; a living one holds the claim."""
        with contextlib.suppress(OSError):
            if self._disk.error is None and self._disk.has_spare_room() and (lock := self._disk.claim()):
                try:
                    self._give_back()
                finally:
                    lock.release()

    def _go_on_in_memory(self, error: OSError) -> None:
        warn_unwritable(error)
        self._reason = error.strerror or str(error)
        self._memory = MemoryRows(self.shape, self.dtype)
        self._check_memory()

    def _check_memory(self) -> None:
        needed, available = self._expected * self._row_bytes, available_memory()
        if needed > SHARE * available:
            raise UserError(
                f"{self._expected} rows of {self.kind} need {needed / 1e9:.1f} GB: cache folder {cache_dir()} can't "
                f"take them ({self._reason}), and memory has {available / 1e9:.1f} GB available. Set VGG_FLAX_CACHE to "
                "a folder on a larger disk, or choose a smaller --image-size."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Chosen rows of a store as one array that is never in memory as a whole.

    Attributes:
      positions: int64 `[n]` in the store.
      field: of a dtype with named fields, the one that is read.
    """

    store: RowStore
    positions: np.ndarray
    field: str | None = None

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def _element(self) -> np.dtype:
        """With the field's own shape."""
        dtype = self.store.dtype
        return dtype if self.field is None else dtype[self.field]

    @property
    def shape(self) -> tuple[int, ...]:
        """`(n, *row)`."""
        return (len(self), *self.store.shape, *self._element.shape)

    @property
    def dtype(self) -> np.dtype:
        """Of the elements."""
        return self._element.base

    def __getitem__(self, index: Positions) -> np.ndarray:
        """A copy of the chosen rows, of an integer one row. Masks are taken as well."""
        return self.store.take(self.positions[index], self.field)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All of them in memory."""
        return self[:].astype(dtype or self.dtype, copy=False)

    def only(self, index: slice | Sequence[int] | np.ndarray) -> Rows:
        """Some of these rows, still unread."""
        return dataclasses.replace(self, positions=self.positions[index])
