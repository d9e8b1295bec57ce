"""The training photos, to be shown beside what is like them."""

from __future__ import annotations

import threading

import cv2
import numpy as np

from vgg_flax.data import open_dataset
from vgg_flax.data.dataset import Dataset
from vgg_flax.data.decode import decode
from vgg_flax.errors import BadImage, UserError

SIDE = 160  # pixels of the longer side


class Album:
    """Gives photos by their names, from where the model says that it was trained; read in a thread when first asked.

    Args:
      data: as `vgg-flax train --data` takes it.
      label: as its `--label`.
    """

    def __init__(self, data: str, label: str | None):
        self._data, self._label = data, label
        self._known: dict[str, np.ndarray | None] = {}
        self._wanted: list[str] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def __call__(self, name: str) -> np.ndarray | None:
        """uint8 BGR `[h, w, 3]`; None where it is gone, or not read yet."""
        with self._changed:
            if name not in self._known:
                self._known[name] = None
                self._wanted.append(name)
                self._changed.notify()
            if self._thread is None:
                self._thread = threading.Thread(target=self._read, name="album", daemon=True)
                self._thread.start()
            return self._known[name]

    def _read(self) -> None:
        try:
            dataset = open_dataset(self._data, label=self._label)
        except (UserError, OSError):
            return  # the photos have moved: their names are shown
        number = {name: i for i, name in enumerate(dataset.names)}
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted)
                name = self._wanted.pop()
            if name in number:
                self._known[name] = _small(dataset, number[name])


def _small(dataset: Dataset, index: int) -> np.ndarray | None:
    try:
        image = decode(dataset.read(index))
    except BadImage:
        return None
    scale = min(1.0, SIDE / max(image.shape[:2]))
    return cv2.resize(image[:, :, ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
