"""Encoded pictures -> uint8 RGB, upright, 8 bits."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np

from vgg_flax.errors import BadImage
from vgg_flax.network.preprocess import resize
from vgg_flax.network.spec import Preprocessing

VERSION = 1  # of the pixels that come out; part of the name under which they are kept


def load_image(path: str | Path, preprocessing: Preprocessing) -> np.ndarray:
    """Read one picture file as uint8 RGB `[size, size, 3]`.

    Raises:
      BadImage: the file is no picture, is cut short, or can't be read.
    """
    return resize(decode(read_bytes(path)), preprocessing)


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a regular file. Raises BadImage for folders, pipes, devices and unreadable files."""
    path = Path(path)
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise BadImage("not a regular file" if path.exists() else "no such file")
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from None


def decode(data: bytes) -> np.ndarray:
    """Any picture OpenCV knows -> uint8 RGB `[height, width, 3]`, upright by its EXIF tag.

    Grey, palette and CMYK pictures become RGB, 16 bits become 8, transparency is laid over white, and of an
    animation the first frame is taken.
    """
    if not data:
        raise BadImage("empty file")
    raw = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise BadImage(f"refused by the decoder: {str(error.err).strip()}") from None
    if image is None:
        raise BadImage(_why_undecodable(data))
    return _over_white(raw, image) if _may_have_alpha(data) else image


def _may_have_alpha(data: bytes) -> bool:
    png = data.startswith(b"\x89PNG") and (data[25:26] in (b"\x04", b"\x06") or b"tRNS" in data[:4096])
    webp = data[8:16] in (b"WEBPVP8X", b"WEBPVP8L")
    return png or webp or data.startswith(b"GIF8")


def _over_white(raw: np.ndarray, image: np.ndarray) -> np.ndarray:
    layered = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
    # An EXIF turn is not applied to `layered`; such a picture keeps its hidden colours rather than a wrong mask.
    if layered is None or layered.ndim != 3 or layered.shape[2] != 4 or layered.shape[:2] != image.shape[:2]:
        return image
    full = {1: 255, 2: 65535}.get(layered.dtype.itemsize, 1)  # of uint8, uint16, and floats
    alpha = layered[:, :, 3:].astype(np.float32) / full
    return np.rint(image * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _why_undecodable(data: bytes) -> str:
    start = data[:512].lstrip()
    if data.startswith(b"\xff\xd8"):
        return "truncated JPEG" if not data.rstrip(b"\0").endswith(b"\xff\xd9") else "damaged JPEG"
    if data.startswith((b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")):
        return "truncated or damaged picture"
    if start[:1] == b"<":
        return "an HTML or XML page, not a picture"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not a picture: run `git lfs pull`"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "HEIC, which OpenCV can't read: convert it to JPEG"
    return "not a picture"


def short_side(data: bytes) -> int | None:
    """Pixels of a picture's shorter side, from its header alone; None where the header is not understood."""
    import warnings

    from PIL import Image

    try:
        with warnings.catch_warnings():  # of its size, which nothing is decoded of
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as picture:
                return min(picture.size)
    except Exception:
        return None
