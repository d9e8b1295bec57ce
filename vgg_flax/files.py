"""Files and folders that appear whole or not at all, and how what a killed process left behind is told and removed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import platform
import re
import secrets
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from vgg_flax import ending
from vgg_flax.errors import UserError

TEMPORARY = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.tmp(\.\w+)?")
WEEK = 7 * 24 * 3600.0  # seconds; no process is expected to write one file for longer
gone_at_the_end: set[Path] = set()  # files and folders of this process that an end at once removes

# Controls, ends of a line, what turns the direction of the text around it, and halves of surrogate pairs.
_HARMFUL = (range(32), range(127, 160), range(0x2028, 0x202F), range(0x2066, 0x206A), range(0xD800, 0xE000))
_ESCAPES = {code: repr(chr(code))[1:-1] for codes in _HARMFUL for code in codes}


def printable(text: str) -> str:
    """On one line, and harmless to a terminal: control characters, such as a newline in a file's name, as escapes.

    So are characters that turn others around, and bytes of a name that are no text.
    """
    return text.translate(_ESCAPES)


def typed(path: Path | str) -> str:
    """As a shell takes it: one word, which is no option."""
    text = str(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file that appears whole or not at all: temporary file, sync, rename, sync of the folder.

    Text becomes UTF-8; bytes of a file's name that are none become U+FFFD.
    """
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogateescape").decode("utf-8", "replace").encode()
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def _remove_unfinished() -> None:
    for path in list(gone_at_the_end):
        _remove(path)


def _remove(path: Path) -> None:
    """A file or folder, if it is there and can be removed."""
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()


ending.last_steps.append(_remove_unfinished)


def new_folder(parent: Path, stem: str) -> Path:
    """A new, empty folder: `stem`, or else the first free of stem2, stem3, ...

    Raises:
      UserError: it can't be made.
    """
    for number in itertools.count(1):
        folder = parent / (stem if number == 1 else f"{stem}{number}")
        try:
            parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir()
            return folder
        except FileExistsError:
            if not parent.is_dir():
                raise UserError(f"{parent} is a file, expected a folder. Choose another --project.") from None
        except OSError as error:
            raise UserError(f"{folder} can't be made: {error.strerror}. Choose another --project.") from None
    raise AssertionError


def sync_folder(folder: Path) -> None:
    """Make renames inside `folder` durable, where the system can."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def temporary_name(path: Path) -> Path:
    """A new name beside `path`, with its suffix, that says whose it is: `sweep` removes it after its process."""
    name = path.with_name(f".{path.stem}.{_host()}-{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}")
    gone_at_the_end.add(name)
    return name


@contextlib.contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, closed to other users, that is gone afterwards."""
    folder = temporary_name(path)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(folder: Path) -> list[Path]:
    """Remove the temporary files and folders of dead processes, anywhere below `folder`.

    A process of this machine is dead when its number is free. Of other machines and containers, which may share the
    folder, only what nobody wrote to for a week is removed.

    Returns:
      What was removed. What can't be removed stays, without an error.
    """
    removed = []
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent, name)
            if _is_dead(path):
                _remove(path)
                if not path.exists():
                    removed.append(path)
        folders[:] = [name for name in folders if not TEMPORARY.fullmatch(name)]
    return removed


def _is_dead(path: Path) -> bool:
    if not (found := TEMPORARY.fullmatch(path.name)):
        return False
    if found["host"] == _host() and os.name == "posix":
        return not _is_running(int(found["pid"]))
    return time.time() - _last_change(path) > WEEK


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _last_change(path: Path) -> float:
    """Seconds since the epoch; of a folder, of the newest thing in it. Now, if it changes under our hands."""
    try:
        return max(each.lstat().st_mtime for each in (path, *path.rglob("*")))
    except OSError:
        return time.time()


@functools.cache
def _host() -> str:
    """Where a process number means the same process: this machine since it was started, and this container."""
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def check_new(option: str, path: Path) -> None:
    """Raise UserError unless `path`, which an option names, is a new file in a folder that we may write to."""
    try:
        taken = path.exists() or path.is_symlink()
    except OSError as error:  # too long a name, a folder that is closed to us
        raise UserError(f"{option} {path}: {error.strerror}.") from None
    if taken:
        raise UserError(f"{option} {path} exists already and is left as it is: give a new name.")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}.")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(f"{option} {path}: the folder {path.parent} can't be written to.")
