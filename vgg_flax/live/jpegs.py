"""JPEG pictures one after the other in a stream of bytes, whatever stands between them."""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import cv2
import numpy as np

from vgg_flax.data import orientation
from vgg_flax.live.capture import DAMAGED, Unavailable, lacks_rows

LARGEST = 32 << 20  # bytes of a picture
MOST_PIXELS = 50_000_000  # a kilobyte may claim to be gigabytes of pixels
JUNK = 1 << 20  # bytes without a picture after which there will be none
HEADERS = 2048  # bytes before a picture in which its time stamp is looked for
BEGIN, END = b"\xff\xd8\xff", b"\xff\xd9"
EOI, SOI, SOS = 0xD9, 0xD8, 0xDA  # ITU-T T.81, table B.1
SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of frame headers
ALONE = {0x01, *range(0xD0, 0xD8)}  # markers without a segment
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # in entropy-coded data
_STAMP = re.compile(rb"x-timestamp:[ \t]*(\d{1,12}(?:\.\d{1,9})?)", re.IGNORECASE)


class Jpeg(NamedTuple):
    """Attributes:
    width, height: pixels that its header claims; 0 where it has none.
    whole: it has its end.
    stamp: seconds by an `X-Timestamp` before it; None where there is none.
    """

    data: bytes
    width: int
    height: int
    whole: bool
    stamp: float | None


class JpegParser:
    """Finds pictures by their own markers; lengths that a server claims are neither needed nor believed.

    It serves multipart answers of HTTP as it serves pictures that simply follow each other.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._inside = self._scan = False  # of a picture; of its entropy-coded data
        self._at = 0  # where to look next
        self._size = (0, 0)
        self._stamp: float | None = None
        self._junk = 0

    def feed(self, data: bytes) -> list[Jpeg]:
        """The pictures that end in `data`. Raises Unavailable when one is too large, or none comes at all."""
        self._buffer += data
        pictures = []
        while (picture := self._next()) is not None:
            pictures.append(picture)
            self._junk = 0
        if len(self._buffer) > LARGEST:
            raise Unavailable(f"a picture of more than {LARGEST >> 20} MB")
        if self._junk > JUNK:
            raise Unavailable("what comes are no JPEG pictures")
        return pictures

    def _next(self) -> Jpeg | None:
        if not self._inside and not self._begin():
            return None
        found = self._end()
        if found is None:
            return None
        end, whole = found
        data = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._inside = False
        picture = Jpeg(data, *self._size, whole, self._stamp)
        self._stamp = None if whole else _stamp(data[-HEADERS:])  # what follows a half picture counts as part of it
        return picture

    def _begin(self) -> bool:
        start = self._buffer.find(BEGIN)
        if start < 0:
            surplus = max(0, len(self._buffer) - HEADERS)
            self._junk += surplus
            del self._buffer[:surplus]
            return False
        self._stamp = _stamp(self._buffer[max(0, start - HEADERS) : start]) or self._stamp
        self._junk += start
        del self._buffer[:start]
        self._inside, self._scan, self._at, self._size = True, False, 2, (0, 0)
        return True

    def _end(self) -> tuple[int, bool] | None:
        """(Where the picture ends, whether by its end marker); None when that has not come yet."""
        buffer = self._buffer
        while True:
            if self._scan:
                found = _MARKER.search(buffer, self._at)
                if found is None:
                    self._at = max(self._at, len(buffer) - 1)
                    return None
                self._at, self._scan = found.start(), False
            at = self._at
            if len(buffer) < at + 2:
                return None
            marker = buffer[at + 1]
            if buffer[at] != 0xFF:
                return self._cut(at)
            if marker == EOI:
                return at + 2, True
            if marker == SOI:
                return at, False
            if marker == 0xFF or marker in ALONE:
                self._at += 1 if marker == 0xFF else 2
                continue
            if len(buffer) < at + 9:
                return None
            length = int.from_bytes(buffer[at + 2 : at + 4])
            if length < 2:
                return self._cut(at)
            if marker in SIZES:
                self._size = (int.from_bytes(buffer[at + 7 : at + 9]), int.from_bytes(buffer[at + 5 : at + 7]))
            self._scan = marker == SOS
            self._at += 2 + length

    def _cut(self, at: int) -> tuple[int, bool]:
        """The end of a picture whose headers lead nowhere."""
        start = self._buffer.find(BEGIN, 2, at + len(BEGIN) - 1)
        return (start if start > 0 else at), False


def _stamp(headers: bytes | bytearray) -> float | None:
    stamps = _STAMP.findall(headers)
    return float(stamps[-1]) if stamps else None


def decode(jpeg: Jpeg) -> tuple[np.ndarray, str | None] | None:
    """(uint8 BGR `[height, width, 3]`, its fault or None); None where nothing can be shown.

    By Pillow: the same pixels as OpenCV's, but it does not write to the screen when a picture is damaged.
    """
    if not 0 < jpeg.width * jpeg.height <= MOST_PIXELS:
        return None
    image = _pixels(jpeg.data if jpeg.whole else jpeg.data + END)
    if image is None:
        return None
    return image, DAMAGED if not jpeg.whole or _ends_early(jpeg.data, image) else None


def _ends_early(data: bytes, image: np.ndarray) -> bool:
    """Whether pixels are missing though the picture has its end marker.

    Then they are grey, and bytes more before the end would change them. Of a whole picture these are passed over.
    """
    if not lacks_rows(image[:, -1:]):
        return False
    longer = _pixels(data[: -len(END)] + bytes(range(1, 129)) + END)
    return longer is None or not np.array_equal(longer, image)


def _pixels(data: bytes) -> np.ndarray | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            image = cv2.cvtColor(np.asarray(picture.convert("RGB")), cv2.COLOR_RGB2BGR)
    except Exception:  # damage comes as many classes of error
        return None
    return orientation.upright(image, orientation.read(data)) if b"Exif\0" in data[:64] else image
