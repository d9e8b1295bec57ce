"""A video file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vgg_flax.errors import UserError
from vgg_flax.live.sinks import check_new

LONGEST_GAP = 3.0  # seconds
CODECS = {".mp4": "mp4v", ".webm": "VP80", ".avi": "MJPG"}  # each of them is in every opencv-python wheel


class Recording:
    """A video with a constant frame rate and a fixed size, which the first view sets.

    A live source is uneven, so a view is repeated or left out as its time demands; a longer gap, as a pause or a lost
    signal leaves, is cut. The file is made when the first view comes.

    Raises:
      UserError: the file exists, has an ending that is no video's, or can't be written.
    """

    def __init__(self, path: Path, fps: float):
        check_new("--save", path)
        if path.suffix.lower() not in CODECS:
            raise UserError(f"--save {path}: expected a name that ends in {', '.join(CODECS)}.")
        self.path = path
        self.frames = 0
        self._fps = fps
        self._shift = 0  # frames cut out so far
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def add_view(self, view: np.ndarray, time_s: float) -> None:
        """Append uint8 BGR `[height, width, 3]`, seen `time_s` seconds after the start of the source."""
        if self._writer is None:
            self._open(view)
            self._shift = round(time_s * self._fps)
        missing = round(time_s * self._fps) - self._shift + 1 - self.frames
        if missing > LONGEST_GAP * self._fps:
            self._shift += missing - 1
            missing = 1
        if missing > 0 and (view.shape[1], view.shape[0]) != self._size:
            view = letterbox(view, *self._size)
        for _ in range(missing):
            # OpenCV 4 answers None, OpenCV 5 whether it worked.
            if self._writer is not None and self._writer.write(view) is False:
                raise UserError(f"--save {self.path}: writing failed after {self.frames} frames. Is the disk full?")
            self.frames += 1

    def _open(self, view: np.ndarray) -> None:
        check_new("--save", self.path)  # again: loading the model took a while
        self._size = (view.shape[1], view.shape[0])
        codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
        self._writer = cv2.VideoWriter(str(self.path), codec, self._fps, self._size)
        if not self._writer.isOpened():
            raise UserError(f"--save {self.path}: this OpenCV can't write such a file here.")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()

    def __str__(self) -> str:
        return f"{self.path} ({self.frames} frames)"


def letterbox(view: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 BGR `[h, w, 3]` -> `[height, width, 3]`: shrunk if it must be, and centred on black."""
    scale = min(1.0, width / view.shape[1], height / view.shape[0])
    if scale < 1:
        size = (max(1, int(view.shape[1] * scale)), max(1, int(view.shape[0] * scale)))
        view = cv2.resize(view, size, interpolation=cv2.INTER_AREA)
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - view.shape[0]) // 2, (width - view.shape[1]) // 2
    canvas[top : top + view.shape[0], left : left + view.shape[1]] = view
    return canvas
