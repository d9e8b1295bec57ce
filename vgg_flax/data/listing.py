"""Files below one top, in a folder or in an archive, before anybody asks what they mean."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".jp2",
    ".pbm", ".pgm", ".ppm", ".pnm", ".heic", ".heif",
)  # fmt: skip
HEAD = 32  # bytes that tell a picture
BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
NOT_A_PICTURE = "no picture by its name or its first bytes"


@dataclasses.dataclass(frozen=True)
class Listing:
    """Every file that is not hidden.

    Attributes:
      source: what the user typed.
      names: path of each file below the top, with slashes, sorted.
      folders: the same of each folder, those without files included.
      read: name -> its bytes. Raises BadImage. Called from several threads.
      head: name -> its first bytes, b"" where they can't be read.
      links: for names that are reached through a link, where it leads if that is below the same top.
      left_out: {name: reason} of what can't be read at all.
    """

    source: str
    names: tuple[str, ...]
    folders: tuple[str, ...]
    read: Callable[[str], bytes]
    head: Callable[[str], bytes]
    links: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def pictures(self) -> list[str]:
        """The names that are pictures by their suffix or their first bytes, also what turns out to be none."""
        return [name for name in self.names if has_suffix(name) or is_picture(self.head(name))]


def has_suffix(name: str) -> bool:
    """Whether a file is named like a picture."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's and not the user's."""
    return name.startswith(".") or name.lower() in ("__macosx", "thumbs.db", "desktop.ini")


def is_picture(head: bytes) -> bool:
    """Whether a file that begins with `head` is a picture of a kind that is read here."""
    if head.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*")):
        return True
    if head.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):  # JPEG 2000
        return True
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return True
    if head[4:8] == b"ftyp" and head[8:12] in BRANDS:
        return True
    return (head[:2] == b"BM" and head[6:10] == bytes(4)) or re.match(rb"P[1-6]\s+[\d#]", head) is not None
