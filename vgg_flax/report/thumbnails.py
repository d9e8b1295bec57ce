"""Photos as a page can carry them: JPEG in the page itself, or many on a sheet beside it; heat maps laid over them."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np

from vgg_flax.files import write_atomic

SIDE = 96  # pixels of a thumbnail
ACROSS = 10  # thumbnails in a row of a sheet, and rows
QUALITY = 80


def jpeg(picture: np.ndarray) -> bytes:
    """uint8 RGB `[h, w, 3]` -> a JPEG file."""
    return cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def data_uri(picture: np.ndarray) -> str:
    """uint8 RGB `[h, w, 3]` -> what an `<img>` can show without another file."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg(picture)).decode()}"


def thumbnail(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 RGB `[h, w, 3]` -> the same in the proportions of `size`, its longer side SIDE. size: (width, height)."""
    width, height = (max(1, round(SIDE * side / max(size))) for side in size)
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)


def at_most(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture, its longer side at most so many pixels."""
    scale = side / max(picture.shape[:2])
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture


def write_sheets(thumbnails: Iterable[np.ndarray], folder: Path) -> list[str]:
    """Lay thumbnails out on sheets, row by row, and write these; returns their names in `folder`.

    Each lies in the upper left corner of a square of SIDE pixels.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for number, sheet in enumerate(_sheets(thumbnails), 1):
        names.append(f"sheet_{number}.jpg")
        write_atomic(folder / names[-1], jpeg(sheet))
    return names


def _sheets(thumbnails: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    sheet, place = np.full((ACROSS * SIDE, ACROSS * SIDE, 3), 255, np.uint8), 0
    for picture in thumbnails:
        top, left = place // ACROSS * SIDE, place % ACROSS * SIDE
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
        place += 1
        if place == ACROSS**2:
            yield sheet
            sheet, place = np.full_like(sheet, 255), 0
    if place:
        yield sheet[: -(-place // ACROSS) * SIDE]


def overlay(picture: np.ndarray, heat: np.ndarray, most: float) -> np.ndarray:
    """A heat map over a greyed picture: the warmer, the more a place speaks for the class.

    Args:
      picture: uint8 RGB `[h, w, 3]`.
      heat: float32 `[s, s]`, of the picture scaled to a square; what is below 0 is not shown.
      most: the heat that gets the warmest colour, above 0.
    """
    height, width, _ = picture.shape
    strength = cv2.resize(heat, (width, height), interpolation=cv2.INTER_LINEAR).clip(0) / most
    levels = np.rint(255 * strength.clip(0, 1)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    alpha = (0.15 + 0.6 * (levels / 255.0) ** 0.8)[..., None]
    return np.rint((1 - alpha) * grey + alpha * colours).astype(np.uint8)
