"""Frames, and the one way to get them out of OpenCV."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from typing import Protocol

import cv2
import numpy as np

TIMEOUT = 3.0  # seconds that opening or reading a stream may take
USUAL_FPS = 25.0  # where a video doesn't say
MISSES = 5  # failed reads in a row that end a capture: a single one may be a damaged frame


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
      index: its number in the source, from 0; at a live source, gaps are frames that were dropped.
      image: uint8 BGR `[height, width, 3]`, never mirrored.
      time_s: seconds since the start of the source: by its own frame rate, or by the clock when it is live.
      captured: `time.monotonic()` when it was taken or read.
      file: name of the picture file, where a frame is one.
    """

    index: int
    image: np.ndarray
    time_s: float
    captured: float
    file: str | None = None
    fault: str | None = None


class Source(Protocol):
    """Frames to label.

    Attributes:
      name: what messages call it.
      live: frames that nobody waits for are lost.
      camera: a person probably looks into it, as into a mirror.
      still: frames that don't follow each other, as a folder's.
      fps: frames per second at which to play or record it.
    """

    name: str
    live: bool
    still: bool
    camera: bool
    fps: float

    def __iter__(self) -> Iterator[Frame | None]: ...

    def close(self) -> None: ...


def grab(capture: cv2.VideoCapture) -> tuple[np.ndarray, float] | None:
    """The next picture, uint8 BGR `[height, width, 3]`, and when it was taken; None when there is none."""
    with contextlib.suppress(cv2.error):
        if capture.grab():
            captured = time.monotonic()
            ok, image = capture.retrieve()
            if ok and image is not None and image.size:
                return (image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)), captured
    return None


def open_camera(camera: int | str) -> cv2.VideoCapture | None:
    # Named, because otherwise OpenCV tries every backend it has, each with its own complaint.
    backend = {"linux": cv2.CAP_V4L2, "darwin": cv2.CAP_AVFOUNDATION}.get(sys.platform, cv2.CAP_ANY)
    return opened(cv2.VideoCapture(camera, backend))


def open_stream(url: str) -> cv2.VideoCapture | None:
    limit = int(1000 * TIMEOUT)  # only FFMPEG keeps to these
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    return opened(cv2.VideoCapture(url, cv2.CAP_FFMPEG, limits))


def opened(capture: cv2.VideoCapture) -> cv2.VideoCapture | None:
    if capture.isOpened():
        return capture
    capture.release()
    return None


def frame_rate(capture: cv2.VideoCapture) -> float:
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 1 <= fps <= 240 else USUAL_FPS  # raw streams claim 0, 90000 or NaN
