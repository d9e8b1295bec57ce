"""What a picture file says of itself, before it is decoded: format, size, camera."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

from vgg_flax.data import heif

MAKE, MODEL = 0x010F, 0x0110  # EXIF 2.32, 4.6.4


class Header(NamedTuple):
    """Attributes:
    format: such as `JPEG`, by the file's own bytes; "" where it is not known.
    width, height: pixels, as stored; 0 where they are not known.
    camera: maker and model of the camera by EXIF, "" where none is named.
    """

    format: str = ""
    width: int = 0
    height: int = 0
    camera: str = ""


def read_header(data: bytes) -> Header:
    """Of an encoded picture; what is not understood stays empty."""
    from PIL import Image

    try:
        with warnings.catch_warnings():  # of its size, which nothing is decoded of
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as picture:
                width, height = picture.size
                return Header(str(picture.format), width, height, _camera(picture))
    except Exception:  # damage comes as many classes of error; decoding will say what is wrong
        size = heif.size(data) if heif.is_heif(data) else None
        return Header("HEIF" if heif.is_heif(data) else "", *(size or (0, 0)))


def _camera(picture: object) -> str:
    exif = picture.getexif()  # type: ignore[attr-defined]
    words = [str(exif.get(tag, "")).strip("\0 ") for tag in (MAKE, MODEL)]
    return " ".join(word for word in words if word)
