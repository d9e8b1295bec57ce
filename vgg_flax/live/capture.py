"""Frames, what sources of frames promise, and the one way to get pictures out of OpenCV."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np

TIMEOUT = 3.0  # seconds that opening or reading a stream may take
USUAL_FPS = 25.0  # where a video doesn't say
MISSES = 5  # failed reads in a row that end a capture: a single one may be a damaged frame
QUIET = 1.0  # seconds without a picture that are nothing unusual
DAMAGED, FROZEN = "damaged picture", "frozen picture"  # faults of frames


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture of a source.

    Attributes:
      index: its number in the source, from 0; at a live source, gaps are frames that were dropped.
      image: uint8 BGR `[height, width, 3]`, never mirrored.
      time_s: seconds since the start of the source: by its own time stamps, or by the clock when it is live.
      captured: `time.monotonic()` when it was taken, where the source says so, or when it was read.
      file: name of the picture file, where a frame is one.
      fault: why it must be shown but not labelled; None of a good one.
    """

    index: int
    image: np.ndarray
    time_s: float
    captured: float
    file: str | None = None
    fault: str | None = None


class Source(Protocol):
    """Frames to label. One thread iterates; `close` may be called from another one, and ends it soon.

    Attributes:
      name: what messages call it.
      live: frames that nobody waits for are lost.
      camera: a person probably looks into it, as into a mirror.
      still: frames that don't follow each other, as a folder's.
      fps: frames per second at which to play or record it.
      trouble: why there is no good picture now, in a few words; None when all is well.
      quiet: seconds without a picture that mean nothing, at this source.
    """

    name: str
    live: bool
    still: bool
    camera: bool
    fps: float

    @property
    def trouble(self) -> str | None: ...

    @property
    def quiet(self) -> float: ...

    def __iter__(self) -> Iterator[Frame | None]: ...

    def close(self) -> None: ...


class Unavailable(Exception):
    """There are no pictures; the message is the reason in a few words."""


class Ended(Exception):
    """There will be no more pictures, and nothing is wrong with that."""


class Shot(NamedTuple):
    """What a capture has read.

    Attributes:
      image: uint8 BGR `[height, width, 3]`.
      arrived: `time.monotonic()` when it was read.
      stamp: seconds on the source's own clock, wherever that began; None where it has none.
      fault: as a frame's.
      same: it is said to be the picture that came before.
    """

    image: np.ndarray
    arrived: float
    stamp: float | None = None
    fault: str | None = None
    same: bool = False


class Capture(Protocol):
    """An open camera or stream."""

    def read(self, alive: Callable[[], object]) -> Shot | None:
        """The newest picture; None when it can't be read. Raises Unavailable, Ended.

        Args:
          alive: told each time that something has come, though a picture takes its time.
        """

    def interrupt(self) -> None:
        """Make a `read` that waits in another thread return soon, where that is possible."""

    def close(self) -> None:
        """By the thread that reads."""


class OpenCV:
    """A camera, or a stream by FFMPEG."""

    def __init__(self, capture: cv2.VideoCapture, camera: bool = False):
        self._capture = capture
        self._camera = camera

    def read(self, alive: Callable[[], object]) -> Shot | None:
        grabbed = grab(self._capture)
        if grabbed is None:
            return None
        image, arrived, milliseconds = grabbed
        fault = DAMAGED if self._camera and lacks_rows(image) else None
        return Shot(image, arrived, milliseconds / 1000 if milliseconds > 0 else None, fault)

    def interrupt(self) -> None:
        pass  # nothing of OpenCV may be touched from another thread; its reads have a time limit

    def close(self) -> None:
        self._capture.release()


def grab(capture: cv2.VideoCapture) -> tuple[np.ndarray, float, float] | None:
    """The next picture, uint8 BGR `[height, width, 3]`, when it came, and its own time in milliseconds or 0.

    None when there is none.
    """
    with contextlib.suppress(cv2.error):
        if capture.grab():
            arrived = time.monotonic()
            milliseconds = capture.get(cv2.CAP_PROP_POS_MSEC)
            ok, image = capture.retrieve()
            if ok and image is not None and image.size:
                return (image if image.ndim == 3 else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)), arrived, milliseconds
    return None


def lacks_rows(image: np.ndarray) -> bool:
    """Whether the last row is the grey that JPEG decoders leave where data is missing; a sensor's has noise."""
    return bool((image[-1] == 128).all())


def open_stream(url: str) -> cv2.VideoCapture | None:
    limit = int(1000 * TIMEOUT)  # only FFMPEG keeps to these
    limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    name: Any = os.fsencode(url)  # OpenCV crashes at text that is none; its types don't know bytes
    return opened(cv2.VideoCapture(name, cv2.CAP_FFMPEG, limits))


def opened(capture: cv2.VideoCapture) -> cv2.VideoCapture | None:
    if capture.isOpened():
        return capture
    capture.release()
    return None


def frame_rate(capture: cv2.VideoCapture) -> float:
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 1 <= fps <= 240 else USUAL_FPS  # raw streams claim 0, 90000 or NaN
