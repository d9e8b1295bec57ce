"""Where the cache is, and what happens when it can't be written."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import sys
import tempfile
from pathlib import Path

from vgg_flax.console import warn
from vgg_flax.files import gone_at_the_end, temporary_name

PROBE = bytes(4096)  # a block: an empty file can be made on a full disk too
_warned: set[Path] = set()


def cache_dir() -> Path:
    """Folder for downloads, decoded pictures, features and compiled code: VGG_FLAX_CACHE, or the user's own."""
    if chosen := os.environ.get("VGG_FLAX_CACHE"):
        return Path(chosen).expanduser().resolve()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "vgg_flax"


def usable_dir(name: str) -> Path:
    """The cache's folder `name`, made closed to other users (mode 0700) if it is new.

    If it can't be made or written there is one warning, and a private folder that is removed when this process ends.
    So look for what may be there in `cache_dir() / name` first: a read-only cache can still be read.
    """
    folder = cache_dir() / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _probe(folder)
    except OSError as error:
        warn_unwritable(error)
        folder = _private_folder() / name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _probe(folder: Path) -> None:
    """Raises OSError where a file can't be written. Permissions alone don't tell: not of root, not of a full disk."""
    path = temporary_name(folder / "probe")
    try:
        with path.open("xb", buffering=0) as file:
            file.write(PROBE)
    finally:
        path.unlink(missing_ok=True)


@functools.cache
def _private_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="vgg_flax-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    gone_at_the_end.add(folder)
    return folder


def warn_unwritable(error: OSError) -> None:
    """One line, once a process, however many things can't be kept."""
    folder = cache_dir()
    if folder not in _warned:
        _warned.add(folder)
        warn(
            f"cache folder {folder} can't be written ({error.strerror or error}): what this run computes is not kept. "
            "Set VGG_FLAX_CACHE to another folder."
        )
