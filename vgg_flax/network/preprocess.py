"""From pixels to network input, the one place for training, evaluation, prediction, webcam and export.

Two halves: on the host, any picture becomes uint8 RGB `[size, size, 3]`; on the device, uint8 RGB becomes the
normalised float input. What was done is written down in a `Preprocessing` record that travels with the weights.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from vgg_flax.network.spec import Preprocessing
from vgg_flax.region import shares

VERSION = 1  # of the pixels that come out; part of the name under which they are kept


def resize(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 RGB `[height, width, 3]` -> uint8 RGB `[size, size, 3]`, of the region that the model sees."""
    size = preprocessing.image_size
    left, top, width, height = region_of(preprocessing.region, *image.shape[:2])
    seen = image[top : top + height, left : left + width]
    shrinks = height > size or width > size
    return cv2.resize(seen, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def region_of(region: str, height: int, width: int) -> tuple[int, int, int, int]:
    """Left, top, width and height in pixels of a region, as `region.shares` reads it, in a picture of that size."""
    part = shares(region)
    if part is None:
        side = min(height, width)
        return (width - side) // 2, (height - side) // 2, side, side
    left, top = min(width - 1, round(part[0] * width)), min(height - 1, round(part[1] * height))
    right, bottom = round((part[0] + part[2]) * width), round((part[1] + part[3]) * height)
    return left, top, max(1, right - left), max(1, bottom - top)


def prepare_frame(frame: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """A camera frame, uint8 BGR `[height, width, 3]` -> uint8 RGB `[size, size, 3]`."""
    return resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), preprocessing)


def normalize(images: Any, preprocessing: Preprocessing) -> Any:
    """RGB `[..., 3]` in 0..255, NumPy or JAX, any real dtype -> float32 network input of the same shape."""
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    return (images.astype(np.float32) - mean) / std
