"""Which way up a picture is meant to be, and how it gets there."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np

TAG = 0x0112
# EXIF 2.32, 4.6.4: what each value does to the stored picture to show it.
TURNS = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def upright(image: np.ndarray, value: int) -> np.ndarray:
    """A picture `[height, width, ...]` turned as its EXIF orientation says; 1 and unknown values leave it alone."""
    return np.ascontiguousarray(TURNS[value](image)) if value in TURNS else image


def read(data: bytes) -> int:
    """EXIF orientation 1 to 8, of AVIF its own turns as such a value; 1 where there is none."""
    value = _opened(data, lambda picture: picture.getexif().get(TAG))
    return value if value in TURNS else 1


def size(data: bytes) -> tuple[int, int] | None:
    """(Width, height) from the header alone; None where it is not understood."""
    return _opened(data, lambda picture: picture.size)


def _opened(data: bytes, ask: Any) -> Any:
    """What `ask` finds in a picture that Pillow has opened and not decoded; None where it can't."""
    from PIL import Image

    try:
        with warnings.catch_warnings():  # of its size, which nothing is decoded of
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as picture:
                return ask(picture)
    except Exception:
        return None
