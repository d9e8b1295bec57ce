"""The files of a data set, each read once: content, format, size, camera, or why it can't be read."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

from vgg_flax.data.dataset import Dataset
from vgg_flax.data.header import Header, read_header
from vgg_flax.data.reading import Seen, read_each


@dataclasses.dataclass(frozen=True)
class File:
    """A picture file, not decoded.

    Attributes:
      content: SHA-256 of its bytes, hexadecimal; "" where it can't be read.
      bytes: how many.
      header: what it says of itself.
      reason: why it can't be read, "" where it can.
    """

    content: str
    bytes: int
    header: Header
    reason: str = ""


def examine(dataset: Dataset, check: Callable[[], None] = lambda: None) -> list[File]:
    """A row for each picture of the data set. `check` is called between files; may raise to stop."""

    def look(data: bytes) -> File:
        return File(hashlib.sha256(data).hexdigest(), len(data), read_header(data))

    return read_each(dataset, look, lambda reason: File("", 0, Header(), reason), check)


def as_seen(files: Sequence[File]) -> list[Seen]:
    """The same, as the decoder wants them."""
    return [
        Seen(one.content or None, min(one.header.width, one.header.height) or None, one.reason or None) for one in files
    ]
