"""The files of one row store, and the order in which they are written.

    info.json  what the store holds; its time of change says when the store was last used
    rows       the rows, one after another, without a header
    keys       a record a row: the row's key of 32 bytes, and a checksum over key, position and store
    lock       held while rows are added       claim    held while rows are computed

A row exists when its record does. Rows are written and synced first, then their records, so a process that is killed
leaves rows without records, or half a record: readers take no notice of either, and the next writer writes over them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import shutil
import struct
import weakref
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from vgg_flax.files import write_atomic

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

KEY_BYTES = 32
RECORD = struct.Struct(f"<{KEY_BYTES}sI")
NO_RESERVING = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
BINARY = getattr(os, "O_BINARY", 0)
RETRIES = 20  # to open a store that others prune; one is enough in practice


class RowFiles:
    """Rows of `row_bytes` each, in `folder`. One thread at a time.

    Attributes:
      count: rows known so far, some of which may be damaged and have no key.
      error: why nothing can be written, or None. Then what is there can still be read.
    """

    def __init__(self, folder: Path, info: dict[str, Any], row_bytes: int):
        self.folder, self.row_bytes, self.count = folder, row_bytes, 0
        self.error: OSError | None = None
        self._seed = zlib.crc32(folder.name.encode())
        self._files: tuple[int, int] | None = None  # descriptors of keys and rows
        self._map = np.empty((0, row_bytes), np.uint8)
        try:
            self._files = self._open(os.O_RDWR | os.O_CREAT)
            self._describe(info)
        except OSError as error:
            self.error = error
            with contextlib.suppress(OSError):
                self._files = self._files or self._open(os.O_RDONLY)

    def _open(self, flags: int) -> tuple[int, int]:
        """Descriptors of keys and rows, locked as being in use. A store that is pruned meanwhile is made again."""
        for _ in range(RETRIES):
            if flags & os.O_CREAT:
                self.folder.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack, contextlib.suppress(FileNotFoundError):
                keys = os.open(self.folder / "keys", flags | BINARY, 0o666)
                stack.callback(os.close, keys)
                if fcntl is not None:
                    with contextlib.suppress(OSError):  # some network file systems have no locks
                        fcntl.flock(keys, fcntl.LOCK_SH)
                if os.path.samestat(os.fstat(keys), (self.folder / "keys").stat()):
                    rows = os.open(self.folder / "rows", flags | BINARY, 0o666)
                    stack.callback(os.close, rows)
                    weakref.finalize(self, stack.pop_all().close)
                    return keys, rows
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.folder))

    def _describe(self, info: dict[str, Any]) -> None:
        path = self.folder / "info.json"
        try:
            right = json.loads(path.read_bytes()) == info
        except (OSError, ValueError):
            right = False
        if not right:
            write_atomic(path, json.dumps(info))
        with contextlib.suppress(OSError):
            os.utime(path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else adds rows meanwhile."""
        lock = self._lock("lock")
        _acquire(lock, -1)
        try:
            yield
        finally:
            lock.release()

    def claim(self) -> filelock.BaseFileLock | None:
        """The right to compute rows, to be released by the same thread; None while somebody else has it."""
        lock = self._lock("claim")
        try:
            _acquire(lock, 0)
        except filelock.Timeout:
            return None
        return lock

    def _lock(self, name: str) -> filelock.BaseFileLock:
        if self.error:
            raise self.error
        return filelock.FileLock(self.folder / name)

    def new_keys(self) -> list[tuple[bytes, int]]:
        """(key, position) of the rows that were added since the last call, by whichever process."""
        if self._files is None:
            return []
        keys, rows = self._files
        end = min(os.fstat(keys).st_size // RECORD.size, os.fstat(rows).st_size // self.row_bytes)
        data = _read(keys, max(0, end - self.count) * RECORD.size, self.count * RECORD.size)
        found = []
        whole = data[: len(data) // RECORD.size * RECORD.size]
        for position, (key, checksum) in enumerate(RECORD.iter_unpack(whole), self.count):
            if checksum == self._checksum(key, position):
                found.append((key, position))
        if found:
            self.count = found[-1][1] + 1
        return found

    def _checksum(self, key: bytes, position: int) -> int:
        return zlib.crc32(key + position.to_bytes(8, "little"), self._seed)

    def append(self, keys: Sequence[bytes], rows: np.ndarray) -> None:
        """Add rows, `[n, ...]` of `row_bytes` each, behind the last one. Only when locked, and after `new_keys`."""
        assert self._files is not None
        keys_file, rows_file = self._files
        self._cut_keys()
        with self._giving_back():
            _write(rows_file, rows.reshape(-1).view(np.uint8).data, self.count * self.row_bytes)
            os.fsync(rows_file)
        records = [RECORD.pack(key, self._checksum(key, i)) for i, key in enumerate(keys, self.count)]
        _write(keys_file, memoryview(b"".join(records)), self.count * RECORD.size)
        os.fsync(keys_file)
        self.count += len(keys)

    def reserve(self, count: int) -> None:
        """Take room on the disk for `count` more rows. Only when locked, and after `new_keys`."""
        assert self._files is not None
        self._cut_keys()
        wanted = count * self.row_bytes
        try:
            if hasattr(os, "posix_fallocate"):
                with self._giving_back():
                    return os.posix_fallocate(self._files[1], self.count * self.row_bytes, wanted)
        except OSError as error:
            if error.errno not in NO_RESERVING:
                raise
        if shutil.disk_usage(self.folder).free < wanted:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

    def _cut_keys(self) -> None:
        """Remove what is behind the last good record: a record whose row was lost must not get another's row."""
        assert self._files is not None
        end = self.count * RECORD.size
        if os.fstat(self._files[0]).st_size > end:
            os.ftruncate(self._files[0], end)
            os.fsync(self._files[0])

    @contextlib.contextmanager
    def _giving_back(self) -> Iterator[None]:
        """If no row got its record yet, others can't have mapped it, and the file may shrink again."""
        try:
            yield
        except OSError:
            with contextlib.suppress(OSError):
                self.give_back()
            raise

    def has_spare_room(self) -> bool:
        """Whether room is reserved, or was by a process that is dead."""
        return self._files is not None and os.fstat(self._files[1]).st_size > self.count * self.row_bytes

    def give_back(self) -> None:
        """Return the room that was not used. Only when locked, and after `new_keys`."""
        assert self._files is not None
        if self.has_spare_room():
            os.ftruncate(self._files[1], self.count * self.row_bytes)

    def mapped(self) -> np.ndarray:
        """uint8 `[>= count, row_bytes]`, mapped from the disk, read-only."""
        if len(self._map) < self.count and self._files is not None:
            room = mmap.mmap(self._files[1], self.count * self.row_bytes, access=mmap.ACCESS_READ)
            self._map = np.frombuffer(room, np.uint8).reshape(self.count, self.row_bytes)
        return self._map


def _acquire(lock: filelock.BaseFileLock, timeout: float) -> None:
    try:
        lock.acquire(timeout=timeout, poll_interval=0.01)
    except NotImplementedError as error:  # older versions of filelock, on a file system without locks
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), lock.lock_file) from error


def _read(descriptor: int, size: int, offset: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.read(descriptor, size)


def _write(descriptor: int, data: memoryview, offset: int) -> None:
    """All of `data`; one call to the system may take less, and on Linux takes 2 GiB at most."""
    while data:
        if hasattr(os, "pwrite"):
            done = os.pwrite(descriptor, data, offset)
        else:
            os.lseek(descriptor, offset, os.SEEK_SET)
            done = os.write(descriptor, data)
        data, offset = data[done:], offset + done
