"""HEIF: the HEIC of many phones, by pillow-heif where it is installed (the extra `heic`); AVIF where OpenCV fails."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any

import numpy as np

from vgg_flax.data import orientation
from vgg_flax.errors import BadImage

BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
ABSENT = "HEIC, which needs pillow-heif: pip install 'vgg_flax[heic]', or convert it to JPEG"


def is_heif(data: bytes) -> bool:
    """Whether a file says that it is HEIC, or a HEIF of unknown contents."""
    return data[4:8] == b"ftyp" and data[8:12] in BRANDS


def is_avif(data: bytes) -> bool:
    """Whether a file says that it is AVIF."""
    return data[4:8] == b"ftyp" and any(brand in data[8:64] for brand in (b"avif", b"avis"))


def is_avif_with_alpha(data: bytes) -> bool:
    """Whether a file says that it is AVIF with transparency, of which OpenCV 5 makes blue what is red, if anything."""
    return is_avif(data) and b"auxiliary:alpha" in data[:65536]


def decode_avif(data: bytes) -> np.ndarray:
    """AVIF by Pillow: uint8 RGB `[height, width, 3]`, upright, transparency laid over white. Raises BadImage."""
    from PIL import Image

    try:
        with warnings.catch_warnings():  # of its size, which is checked here
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=["AVIF"]) as picture:
                _check_size(*picture.size)
                pixels = over_white(np.asarray(picture.convert("RGBA")))
                return orientation.upright(pixels, orientation.read(data))
    except BadImage:
        raise
    except Exception as error:  # damage comes as many classes of error
        raise BadImage(f"damaged AVIF, or Pillow can't read it: {error}") from None


def decode(data: bytes) -> np.ndarray:
    """HEIC: uint8 RGB `[height, width, 3]`, upright, transparency laid over white.

    Raises:
      BadImage: damaged, too large, or pillow-heif is not installed.
    """
    opened, (width, height) = _open(data)
    _check_size(width, height)
    try:
        pixels = np.asarray(opened)
    except Exception as error:  # libheif has no class of its own for them
        raise BadImage(f"damaged HEIC: {error}") from None
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, 2)
    return over_white(pixels) if pixels.shape[2] == 4 else np.ascontiguousarray(pixels)


def over_white(layered: np.ndarray) -> np.ndarray:
    """uint8 RGBA `[height, width, 4]` -> RGB on white."""
    alpha = layered[:, :, 3:].astype(np.float32) / 255
    return np.rint(layered[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def size(data: bytes) -> tuple[int, int] | None:
    """(Width, height) of a HEIC from its header; None where it can't be read."""
    try:
        return _open(data)[1]
    except BadImage:
        return None


def _check_size(width: int, height: int) -> None:
    most = int(os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"])
    if width * height > most:
        raise BadImage(f"refused by the decoder: {width} x {height} pixels, expected at most {most} in all")


def _open(data: bytes) -> tuple[Any, tuple[int, int]]:
    """(The picture, not yet decoded; its width and height)."""
    try:
        import pillow_heif
    except ImportError:
        raise BadImage(ABSENT) from None
    try:
        opened = pillow_heif.open_heif(data, convert_hdr_to_8bit=True)  # libheif turns it upright
        return opened, opened.size
    except Exception as error:
        raise BadImage(f"damaged HEIC: {error}") from None
