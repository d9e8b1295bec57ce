"""scikit-learn's 1797 handwritten digits, 8x8 pixels, 10 classes: real data that ships with a dependency.

Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, test set.
"""

from __future__ import annotations

import cv2
import numpy as np
from sklearn.datasets import load_digits

from vgg_flax.data.dataset import Dataset


def open_dataset() -> Dataset:
    """The digits as PNG files in memory, so that they take the same road as photos."""
    grey, labels = load_digits(return_X_y=True)
    pictures = np.rint(grey * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)

    def read(index: int) -> bytes:
        return cv2.imencode(".png", pictures[index])[1].tobytes()

    return Dataset(
        source="digits",
        classes=tuple("0123456789"),
        names=tuple(f"digit {i}" for i in range(len(labels))),
        labels=labels.astype(np.int32),
        own_splits=np.full(len(labels), "", "<U5"),
        read=read,
    )
