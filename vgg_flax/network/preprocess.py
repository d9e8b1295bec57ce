"""From pixels to network input, the one place for training, evaluation, prediction, webcam and export.

Two halves: on the host, any picture becomes uint8 RGB `[size, size, 3]`; on the device, uint8 RGB becomes the
normalised float input. What was done is written down in a `Preprocessing` record that travels with the weights.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from vgg_flax.network.spec import Preprocessing

VERSION = 1  # of the pixels that come out; part of the name under which they are kept


def resize(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 RGB `[height, width, 3]` -> uint8 RGB `[size, size, 3]`."""
    size = preprocessing.image_size
    shrinks = image.shape[0] > size or image.shape[1] > size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def prepare_frame(frame: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """A camera frame, uint8 BGR `[height, width, 3]` -> uint8 RGB `[size, size, 3]`."""
    return resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), preprocessing)


def normalize(images: Any, preprocessing: Preprocessing) -> Any:
    """RGB `[..., 3]` in 0..255, NumPy or JAX, any real dtype -> float32 network input of the same shape."""
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    return (images.astype(np.float32) - mean) / std
