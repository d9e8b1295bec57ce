"""Live sources: the newest frame, and nothing else.

What arrives while the model works is dropped, so the label on the screen is never older than one prediction. A lost
signal is never papered over with an old or black frame, on which a classifier is just as confident as on a real one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from vgg_flax.errors import UserError
from vgg_flax.live.capture import MISSES, TIMEOUT, Frame, grab

LIVE_FPS = 15.0  # of recordings, whatever the rate of the source
POLL = 0.1  # seconds after which the source says that it has no new frame
FRESH = 1.0  # seconds after which a frame is too old to be labelled
STALL = TIMEOUT + 1.0  # silence after which the capture thread is taken to hang
PATIENCE = 15.0  # seconds without a frame after which the source is given up
FROZEN = 5.0  # seconds of identical pictures after which a camera is taken to repeat itself
FIRST_DELAY, LAST_DELAY = 0.5, 4.0  # seconds before reopening, doubling


class LiveSource:
    """The newest frame of a camera or stream, from a thread that reopens what it loses.

    Only that thread touches the capture. Should it hang in a driver, a new thread takes over, and what the old one
    still brings is ignored: every thread carries the number of its generation.

    Args:
      name: what messages call it.
      open_capture: makes an opened capture, or None when that fails.
      camera: whether identical pictures mean a fault; a sensor's noise makes every picture differ.
      hint: a sentence for the error message when there is nothing to open.

    Raises:
      UserError: it can't be opened; while iterating: no frame came for `PATIENCE` seconds.
    """

    live, still = True, False
    fps = LIVE_FPS

    def __init__(
        self,
        name: str,
        open_capture: Callable[[], cv2.VideoCapture | None],
        camera: bool = False,
        hint: str = "",
    ):
        self.name = name
        self.camera = camera
        self.trouble: str | None = None
        self._open = open_capture
        capture = open_capture()  # here, because macOS asks for permission in the main thread only
        if capture is None:
            raise UserError(f"{name} can't be opened.{hint}")
        self._started = time.monotonic()
        self._last_frame = self._started
        self._captured = 0
        self._still: tuple[np.ndarray, float] | None = None  # what a frozen camera shows, and since when
        self._newest: Frame | None = None
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._generation = 0
        self._start_thread(capture)

    def __iter__(self) -> Iterator[Frame | None]:
        while not self._closing.is_set():
            yield self._take()

    def _take(self) -> Frame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None, POLL)
            frame, self._newest = self._newest, None
        now = time.monotonic()
        if frame is not None and now - frame.captured < FRESH:
            return frame
        if now - self._last_frame > PATIENCE:
            raise UserError(f"{self.name}: no frame for {PATIENCE:.0f} seconds, given up.")
        if now - self._heard > STALL:
            self._start_thread(None)
        return None

    def close(self) -> None:
        self._closing.set()
        self._thread.join(STALL)  # no read of a stream takes longer; a hanging driver is left behind

    def _start_thread(self, capture: cv2.VideoCapture | None) -> None:
        self._generation += 1
        self._heard = time.monotonic()
        arguments = (self._generation, capture)
        self._thread = threading.Thread(target=self._run, args=arguments, name=f"capture {self.name}", daemon=True)
        self._thread.start()

    def _in_charge(self, generation: int) -> bool:
        return generation == self._generation and not self._closing.is_set()

    def _run(self, generation: int, capture: cv2.VideoCapture | None) -> None:
        delay = FIRST_DELAY
        while self._in_charge(generation):
            if capture is not None:
                delay = FIRST_DELAY if self._drain(generation, capture) else delay
                capture.release()
            self._heard_from(generation)
            self._closing.wait(delay)
            delay = min(2 * delay, LAST_DELAY)
            self._heard_from(generation)
            capture = self._open() if self._in_charge(generation) else None
        if capture is not None:
            capture.release()

    def _drain(self, generation: int, capture: cv2.VideoCapture) -> bool:
        """Hand over frames until they fail to come. True when there was at least one."""
        any_frame, misses = False, 0
        while misses < MISSES and self._in_charge(generation):
            self._heard_from(generation)
            grabbed = grab(capture)
            if grabbed is None:
                misses += 1
                continue
            any_frame, misses = True, 0
            if self.camera and self._frozen(*grabbed):
                break
            self._publish(generation, *grabbed)
        return any_frame

    def _heard_from(self, generation: int) -> None:
        if generation == self._generation:
            self._heard = time.monotonic()

    def _publish(self, generation: int, image: np.ndarray, captured: float) -> None:
        with self._changed:
            if not self._in_charge(generation):
                return
            self._newest = Frame(self._captured, image, captured - self._started, captured)
            self._captured += 1
            self._last_frame = captured
            self._changed.notify()

    def _frozen(self, image: np.ndarray, captured: float) -> bool:
        """Whether a camera has shown the same picture for too long, as some drivers do once it is unplugged."""
        sample = image[::16, ::16]
        if self._still is None or not np.array_equal(sample, self._still[0]):
            self._still = (sample.copy(), captured)
        frozen = captured - self._still[1] > FROZEN
        if frozen:
            self._last_frame = captured  # a covered lens looks the same: no reason to give up
        return frozen
