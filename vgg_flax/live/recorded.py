"""Recorded sources: every frame, in order."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from vgg_flax.data.decode import decode, opencv_name, read_bytes
from vgg_flax.errors import BadImage, UserError
from vgg_flax.live.capture import MISSES, QUIET, Frame, frame_rate, grab, open_stream, opened

PICTURES = {
    ".jpg",
    ".jpeg",
    ".jpe",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
    ".jp2",
    ".avif",
    ".ppm",
    ".pgm",
    ".heic",
    ".heif",
}
PICTURE_FPS = 2.0  # half a second for each picture of a folder
LONGEST_FRAME = 60.0  # seconds; a stamp that jumps further is wrong


class Pictures:
    """Pictures as frames, of whatever sizes; those that can't be read are named and skipped."""

    live = camera = False
    trouble, quiet = None, QUIET
    still = True
    fps = PICTURE_FPS

    def __init__(self, paths: Sequence[Path], name: str, warn: Callable[[str], None]):
        self.name = name
        self._paths = paths
        self._warn = warn
        self._closed = False

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
            if self._closed:
                return
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
        self._closed = True


class VideoFile:
    """Every frame of a recording, in order and at its own time, from a file or over HTTP."""

    live = still = camera = False
    trouble, quiet = None, QUIET

    def __init__(self, location: str, name: str, warn: Callable[[str], None]):
        self.name = name
        self._warn = warn
        capture = open_stream(location) if "://" in location else opened(cv2.VideoCapture(opencv_name(location)))
        if capture is None:
            raise UserError(f"{name}: {_why_unreadable(location)}.")
        self._capture = capture
        self._reading = threading.Lock()  # OpenCV must not be closed while it reads
        self._closed = False
        self.fps = frame_rate(capture)

    def __iter__(self) -> Iterator[Frame]:
        index, times, seconds = 0, _Times(self.fps), 0.0
        while (grabbed := self._next()) is not None:
            image, read, milliseconds = grabbed
            seconds = times.of(milliseconds / 1000)
            yield Frame(index, image, seconds, read)
            index += 1
        if self._closed:
            return
        if not index:
            raise UserError(f"{self.name}: no readable frame.")
        promised = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)  # an estimate, negative where nobody knows
        if max(index, seconds * self.fps) < 0.9 * promised:  # it counts on an even rate
            self._warn(f"{self.name} ended after {index} of {promised:.0f} frames: it may be damaged or cut short")

    def _next(self) -> tuple[np.ndarray, float, float] | None:
        for _ in range(MISSES):
            with self._reading:
                grabbed = None if self._closed else grab(self._capture)
            if grabbed is not None:
                return grabbed
        return None

    def close(self) -> None:
        self._closed = True
        with self._reading:
            self._capture.release()


class _Times:
    """When frames are due, by their own stamps where these go on; else by the frame rate."""

    def __init__(self, fps: float):
        self._step = 1 / fps
        self._first: float | None = None
        self._last = -self._step

    def of(self, stamp: float) -> float:
        """Seconds since the first frame."""
        self._first = stamp if self._first is None else self._first
        since = stamp - self._first
        usual = self._last + self._step
        self._last = since if self._last < since < self._last + LONGEST_FRAME else usual
        return self._last


def _why_unreadable(location: str) -> str:
    path = Path(location)
    if "://" not in location and path.is_file():
        if not path.stat().st_size:
            return "an empty file"
        if not os.access(path, os.R_OK):
            return "closed to this user"
    return "not a video or picture that OpenCV can read"
