"""What lies in the cache, how large it is, and how room is made."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from vgg_flax.cache.folder import cache_dir
from vgg_flax.errors import UserError
from vgg_flax.files import TEMPORARY, sweep, temporary_name

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
PURPOSES = {"winograd": "compiled kernel", "xla": "compiled programs", "weights": "weights"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing in the cache.

    Attributes:
      kind: `pictures`, `block4`, ... of a row store; `weights`, `compiled kernel`, `compiled programs`, `other`.
      about: a few words for people.
      bytes: that it takes on the disk.
      used: seconds since the epoch.
      prunable: whether `prune` may drop it: row stores, which are computed again when they are missed.
    """

    kind: str
    about: str
    path: Path
    bytes: int
    used: float
    prunable: bool = False


def entries() -> list[Entry]:
    """All that is in the cache: each row store, each model's weights, compiled code, and folders of other origin."""
    found = []
    for path in _inside(cache_dir()):
        if path.name == "rows":
            found += [_row_store(store) for store in _inside(path) if store.is_dir()]
        elif path.name == "weights":
            found += [Entry("weights", each.name, each, *_size_and_use(each)) for each in _inside(path)]
        else:
            found.append(Entry(PURPOSES.get(path.name, "other"), path.name, path, *_size_and_use(path)))
    return found


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.name[0] != "." or TEMPORARY.fullmatch(path.name))
    except OSError:
        return []


def _row_store(path: Path) -> Entry:
    size, used = _size_and_use(path)
    about: Any = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        used = (path / "info.json").stat().st_mtime
        about = json.loads((path / "info.json").read_bytes())["about"]
    kind = "leftover" if TEMPORARY.fullmatch(path.name) else path.name.rpartition("-")[0]
    return Entry(kind, _in_words(about) if isinstance(about, dict) else "", path, size, used, prunable=True)


def _in_words(about: Mapping[str, Any]) -> str:
    """Plain values only; of a digest, as much as tells two apart."""
    plain = {name: value for name, value in about.items() if isinstance(value, str | int | float)}
    short = {
        name: value[:8] if isinstance(value, str) and re.fullmatch("[0-9a-f]{16,}", value) else value
        for name, value in plain.items()
    }
    return ", ".join(f"{name} {value}" for name, value in short.items())


def _size_and_use(path: Path) -> tuple[int, float]:
    """Bytes on the disk, and when anything was last read or written. What vanishes meanwhile doesn't count."""
    size, used = 0, 0.0
    for each in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):
            status = each.lstat()
            size += getattr(status, "st_blocks", -(-status.st_size // 512)) * 512
            used = max(used, status.st_mtime, 0 if each.is_dir() else status.st_atime)  # listing reads a folder
    return size, used


def prune(limit: int) -> list[Entry]:
    """Drop row stores, the least recently used first, until the whole cache takes at most `limit` bytes.

    Stores that a process has open are left alone, and so is all that is no row store.

    Returns:
      What was dropped.
    """
    sweep(cache_dir())
    found = entries()
    total, dropped = sum(entry.bytes for entry in found), []
    for entry in sorted((entry for entry in found if entry.prunable), key=lambda entry: entry.used):
        if total > limit and _drop(entry.path):
            dropped.append(entry)
            total -= entry.bytes
    return dropped


def _drop(store: Path) -> bool:
    """Remove a store, unless it is in use. It is renamed first: cut off in between, `sweep` removes the rest."""
    trash = temporary_name(store)
    try:
        with _unused(store) as unused:
            if unused:
                store.rename(trash)
    except OSError:
        return False
    shutil.rmtree(trash, ignore_errors=True)
    return unused


@contextlib.contextmanager
def _unused(store: Path) -> Iterator[bool]:
    """Whether no process has the store open; none can open it inside."""
    with contextlib.ExitStack() as stack:
        try:
            for name in ("claim", "lock"):
                stack.enter_context(filelock.FileLock(store / name).acquire(timeout=0))
            if fcntl is not None:
                keys = os.open(store / "keys", os.O_RDWR | os.O_CREAT)
                stack.callback(os.close, keys)
                fcntl.flock(keys, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (OSError, NotImplementedError):  # locked, or can't be locked
            yield False
            return
        yield True


def parse_size(text: str) -> int:
    """Bytes from `10GB`, `500 MB` or `1.5GiB`; KB, MB, GB, TB are decimal. Raises UserError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", text, re.IGNORECASE)
    if not found or (unit := found[2].upper()) not in UNITS:
        raise UserError(f"size is {text!r}, expected a number and a unit, such as 10GB, 500MB or 1.5GiB.")
    return int(float(found[1]) * UNITS[unit])
