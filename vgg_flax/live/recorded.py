"""Recorded sources: every frame, in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from vgg_flax.data.decode import decode, read_bytes
from vgg_flax.errors import BadImage, UserError
from vgg_flax.live.capture import MISSES, Frame, frame_rate, grab, open_stream, opened

PICTURES = {".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".jp2", ".avif", ".ppm", ".pgm"}
PICTURE_FPS = 2.0  # half a second for each picture of a folder


class Pictures:
    """Pictures as frames, of whatever sizes; those that can't be read are named and skipped."""

    live = camera = False
    still = True
    fps = PICTURE_FPS

    def __init__(self, paths: Sequence[Path], name: str, warn: Callable[[str], None]):
        self.name = name
        self._paths = paths
        self._warn = warn

    @classmethod
    def of_folder(cls, folder: Path, warn: Callable[[str], None]) -> Pictures:
        """The pictures that lie directly in `folder`, by name. Raises UserError when there are none."""
        paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and path.name[0] != "."]
        if not paths:
            raise UserError(f"--source {folder}: no pictures in this folder (sub-folders are not searched).")
        return cls(sorted(paths, key=lambda path: path.name), str(folder), warn)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        for path in self._paths:
            try:
                image = decode(read_bytes(path))
            except BadImage as error:
                self._warn(f"{path.name} skipped: {error}")
                continue
            bgr = np.ascontiguousarray(image[:, :, ::-1])
            yield Frame(index, bgr, index / self.fps, time.monotonic(), path.name)
            index += 1
        if not index:
            raise UserError(f"{self.name}: no readable picture.")

    def close(self) -> None:
        pass


class VideoFile:
    """Every frame of a recording, in order, from a file or over HTTP."""

    live = still = camera = False

    def __init__(self, location: str, name: str, warn: Callable[[str], None]):
        self.name = name
        self._warn = warn
        capture = open_stream(location) if "://" in location else opened(cv2.VideoCapture(location))
        if capture is None:
            raise UserError(f"{name}: not a video or picture that OpenCV can read.")
        self._capture = capture
        self.fps = frame_rate(capture)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        while (image := self._next_image()) is not None:
            yield Frame(index, image, index / self.fps, time.monotonic())
            index += 1
        if not index:
            raise UserError(f"{self.name}: no readable frame.")
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)  # an estimate, negative where nobody knows
        if index < 0.9 * promised:
            self._warn(f"{self.name} ended after {index} of {promised:.0f} frames: it may be damaged or cut short")

    def _next_image(self) -> np.ndarray | None:
        tries = (grab(self._capture) for _ in range(MISSES))
        return next((grabbed[0] for grabbed in tries if grabbed is not None), None)

    def close(self) -> None:
        self._capture.release()
