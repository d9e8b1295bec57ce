"""Encoded pictures -> uint8 RGB, upright, 8 bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np

from vgg_flax.data import heif, orientation
from vgg_flax.errors import BadImage
from vgg_flax.network.preprocess import resize
from vgg_flax.network.spec import Preprocessing

VERSION = 2  # of the pixels that come out; part of the name under which they are kept
DEPTHS = (10, 12, 14)  # bits of values in files of 16


def load_image(path: str | Path, preprocessing: Preprocessing) -> np.ndarray:
    """Read one picture file as uint8 RGB `[size, size, 3]`.

    Raises:
      BadImage: the file is no picture, is cut short, or can't be read.
    """
    return resize(decode(read_bytes(path)), preprocessing)


def opencv_name(path: str | Path) -> Any:
    """A video file's name as OpenCV takes any, in bytes that its types don't know.

    It crashes at a name that is no text, and FFMPEG takes "12:30.mp4" for a protocol, but not from the root on.
    """
    return os.fsencode(Path(path).absolute())


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
    """Any picture OpenCV knows, and HEIC where pillow-heif is installed -> uint8 RGB `[height, width, 3]`, upright.

    Grey, palette and CMYK pictures become RGB, 16 bits become 8, transparency is laid over white, and of an
    animation the first frame is taken. Raises BadImage.
    """
    return decode_with_depth(data)[0]


def decode_with_depth(data: bytes) -> tuple[np.ndarray, int]:
    """(As `decode`, bits that its values were taken to have): 8; or 10, 12, 14 or 16, the least that hold them all.

    Cameras and microscopes write 12-bit values into 16-bit files; divided by 65535 they would be nearly black.
    """
    if not data:
        raise BadImage("empty file")
    if heif.is_avif_with_alpha(data):
        return heif.decode_avif(data), 8
    raw = np.frombuffer(data, np.uint8)
    turn = _turn(data)
    flags = cv2.IMREAD_COLOR_RGB | (cv2.IMREAD_IGNORE_ORIENTATION if turn != 1 else 0)
    try:
        image = cv2.imdecode(raw, flags | cv2.IMREAD_ANYDEPTH) if _may_be_deep(data) else None
        if image is None or image.dtype not in (np.uint8, np.uint16):
            image = cv2.imdecode(raw, flags)
        if image is None:
            return heif.decode(data) if heif.is_heif(data) else _refuse(data), 8
        image, depth = _in_8_bits(image)
        if _may_have_alpha(data):
            image = _over_white(raw, image)
    except cv2.error as error:
        raise BadImage(f"refused by the decoder: {str(error.err).strip()}") from None
    return orientation.upright(image, turn), depth


def _refuse(data: bytes) -> NoReturn:
    raise BadImage(_why_undecodable(data))


def _may_be_deep(data: bytes) -> bool:
    png = data.startswith(b"\x89PNG") and data[24:25] == b"\x10"
    return png or data.startswith(
        (b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51", b"P2", b"P3", b"P5", b"P6")
    )


def _in_8_bits(image: np.ndarray) -> tuple[np.ndarray, int]:
    """uint8 or uint16 -> (uint8, bits)."""
    if image.dtype == np.uint8:
        return image, 8
    depth = next((bits for bits in DEPTHS if image.max(initial=0) < 2**bits), 16)
    return np.rint(image.astype(np.float32) * (255 / (2**depth - 1))).astype(np.uint8), depth


def _may_have_alpha(data: bytes) -> bool:
    png = data.startswith(b"\x89PNG") and (data[25:26] in (b"\x04", b"\x06") or b"tRNS" in data[:4096])
    webp = data[8:16] in (b"WEBPVP8X", b"WEBPVP8L")
    return png or webp or data.startswith(b"GIF8")


def _turn(data: bytes) -> int:
    """EXIF orientation 1 to 8 that is ours to apply, 1 where OpenCV does it, or nothing is turned.

    OpenCV turns by EXIF, but not what it decodes with transparency, and it knows nothing of AVIF's own turns.
    """
    if heif.is_avif(data) or (_may_have_alpha(data) and (b"eXIf" in data or b"EXIF" in data)):
        return orientation.read(data)
    return 1


def _over_white(raw: np.ndarray, image: np.ndarray) -> np.ndarray:
    """`image`, which is not turned yet, with white where it is transparent."""
    layered = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
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
    return "not a picture"


def upright_size(data: bytes) -> tuple[int, int] | None:
    """(Width, height) of a picture as `decode` gives it, from its header alone; None where that is not understood."""
    size = orientation.size(data)
    if size is None:
        return heif.size(data) if heif.is_heif(data) else None
    width, height = size
    return (height, width) if orientation.read(data) >= 5 else size  # EXIF's last four lay it on its side


def short_side(data: bytes) -> int | None:
    """Pixels of a picture's shorter side, from its header alone; None where the header is not understood."""
    size = upright_size(data)
    return min(size) if size else None
