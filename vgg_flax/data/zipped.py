"""Photos in a .zip file, read in place: nothing is ever extracted, so no name in it can lead anywhere."""

from __future__ import annotations

import contextlib
import re
import stat
import zipfile
import zlib
from pathlib import Path

from vgg_flax.data.listing import HEAD, Listing, is_hidden
from vgg_flax.errors import BadImage, UserError

MOST_FILES = 2_000_000
MOST_BYTES = 128 * 2**20  # of one picture
MOST_RATIO = 200  # of unpacked to packed bytes; pictures hardly shrink
SMALL = 2**20  # bytes of a file whose ratio does not matter
UTF8, ENCRYPTED = 0x800, 0x1
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)


def list_zip(path: Path) -> Listing:
    """Every file in the archive that is not hidden. Files that are no honest pictures are left out by name.

    Raises:
      UserError: it is no zip file, or holds more files than any set of photos.
    """
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGED as error:
        raise UserError(f"--data {path} is no whole .zip file ({error}): download or pack it again.") from None
    infos = archive.infolist()
    if len(infos) > MOST_FILES:
        raise UserError(f"--data {path} holds {len(infos)} files, expected at most {MOST_FILES}: unpack it yourself.")
    members: dict[str, zipfile.ZipInfo] = {}
    left_out: dict[str, str] = {}
    folders: set[str] = set()
    for info in infos:
        name = _name(info)
        parts = name.rstrip("/").split("/")
        if any(is_hidden(part) for part in parts if part != ".."):
            continue
        if not info.is_dir():
            if reason := _refused(info, name, members):
                left_out[name] = reason
                continue
            members[name] = info
            parts.pop()
        if not _leads_outside(name):
            folders |= {"/".join(parts[: i + 1]) for i in range(len(parts))}

    def read(name: str) -> bytes:
        return _read(archive, members[name], MOST_BYTES)

    def head(name: str) -> bytes:
        try:
            return _read(archive, members[name], HEAD, whole=False)
        except BadImage:
            return b""

    return Listing(str(path), tuple(sorted(members)), tuple(sorted(folders)), read, head, left_out=left_out)


def _name(info: zipfile.ZipInfo) -> str:
    """The path of a member; some programs write UTF-8 without saying so, backslashes, or `./` in front."""
    name = info.filename
    if not info.flag_bits & UTF8:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/").removeprefix("./")


def _refused(info: zipfile.ZipInfo, name: str, members: dict[str, zipfile.ZipInfo]) -> str:
    """Why a member is not read, "" if it is."""
    if _leads_outside(name):
        return "its path leads out of the archive"
    if name in members:
        return "the archive holds this name twice"
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link, which is not followed inside an archive"
    if info.flag_bits & ENCRYPTED:
        return "locked with a password: unpack the archive first"
    if info.file_size > MOST_BYTES:
        return f"{info.file_size} bytes unpacked, expected at most {MOST_BYTES}"
    if info.file_size > SMALL and info.file_size > MOST_RATIO * info.compress_size:
        return f"unpacks to more than {MOST_RATIO} times its size, as no photo does"
    return ""


def _leads_outside(name: str) -> bool:
    parts = name.rstrip("/").split("/")
    return "\0" in name or re.match("[A-Za-z]:", name) is not None or bool({"", ".", ".."} & set(parts))


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int, *, whole: bool = True) -> bytes:
    """Up to `most` bytes of a member. Raises BadImage: damaged, or `whole` and larger than it says."""
    try:
        with archive.open(info) as file:
            data = file.read(most + 1 if whole else most)
    except DAMAGED as error:
        raise BadImage(f"damaged in the archive: {error}") from None
    if whole and len(data) > most:
        raise BadImage(f"more than {most} bytes unpacked")
    return data
