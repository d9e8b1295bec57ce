"""The training photos, to be shown beside what is like them."""

from __future__ import annotations

import threading
from collections.abc import Callable

import cv2
import numpy as np

SIDE = 160  # pixels of the longer side


class Album:
    """Gives photos by their names, small; read in a thread when first asked for.

    Args:
      find: (class, uint8 RGB `[h, w, 3]`) of a photo, or None, as `TrainingPhotos` does.
    """

    def __init__(self, find: Callable[[str], tuple[str, np.ndarray] | None]):
        self._find = find
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
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted)
                name = self._wanted.pop()
            if found := self._find(name):
                image = found[1][:, :, ::-1]
                scale = min(1.0, SIDE / max(image.shape[:2]))
                self._known[name] = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
