"""Live sources: the newest frame, and nothing else.

What arrives while the model works is dropped, so the label on the screen is never older than one prediction. A lost
signal is never papered over with an old or black frame, on which a classifier is just as confident as on a real one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np

from vgg_flax.errors import UserError
from vgg_flax.live.capture import FROZEN, MISSES, QUIET, TIMEOUT, Capture, Ended, Frame, Shot, Unavailable
from vgg_flax.live.clock import SourceClock

LIVE_FPS = 15.0  # of recordings, whatever the rate of the source
POLL = 0.1  # seconds after which the source says that it has no new frame
FRESH = 1.0  # seconds after which a frame that waited is too old to be labelled
STALL = TIMEOUT + 1.0  # silence after which the capture thread is taken to hang
OPENING = 2 * TIMEOUT  # seconds more, where a connection is made and asked for the reason of its failure
PATIENCE = 15.0  # seconds without a frame after which the source is given up
FROZEN_AFTER = 5.0  # seconds of identical pictures after which a source is taken to repeat itself
FIRST_DELAY, LAST_DELAY = 0.5, 4.0  # seconds before reopening, doubling
FIRST_REOPENING, LAST_REOPENING = 5.0, 80.0  # seconds between two tries to wake a frozen camera, doubling
SLOW, FADING = 2.0, 0.99  # how often the longest distance of two pictures, lately, may pass; "lately", in pictures


class LiveSource:
    """The newest frame of a camera or stream, from a thread that reopens what it loses.

    Only that thread reads. Should it hang in a driver, a new thread takes over, and what the old one still brings is
    ignored: every thread carries the number of its generation.

    Args:
      name: what messages call it.
      open_capture: makes an opened capture, or raises Unavailable.
      camera: whether to open it anew when it is frozen, as some drivers repeat themselves once it is unplugged.
      hint: a sentence for the error message when there is nothing to open.
      frozen_after: seconds; pictures that are polled change rarely.
      reopen: whether it can be opened more than once.

    Raises:
      UserError: it can't be opened; while iterating: no frame came for `PATIENCE` seconds, or it can't be reopened.
    """

    live, still = True, False
    fps = LIVE_FPS

    def __init__(
        self,
        name: str,
        open_capture: Callable[[], Capture],
        camera: bool = False,
        hint: str = "",
        frozen_after: float | None = None,
        reopen: bool = True,
    ):
        self.name = name
        self.camera = camera
        self._open = open_capture
        self._reopen = reopen
        self._repeats = _Repeats(FROZEN_AFTER if frozen_after is None else frozen_after, camera)
        try:
            capture = open_capture()  # here, because macOS asks for permission in the main thread only
        except Unavailable as error:
            raise UserError(f"{name} can't be opened: {error}.{hint}") from None
        self._started = time.monotonic()
        self._last_sign = self._last_good = self._started  # of life; of a picture without a fault
        self._distance = 0.0  # longest, lately, of seconds between two good pictures
        self._captured = 0
        self._trouble: str | None = None
        self._over: BaseException | None = None
        self._newest: tuple[Frame, float] | None = None  # and when it arrived
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._generation = 0
        self._start_thread(capture)

    @property
    def quiet(self) -> float:
        """Seconds without a picture that mean nothing: twice the longest distance that pictures lately had."""
        if self._trouble is not None:
            return QUIET
        return self._repeats.after if self._repeats.patient else max(QUIET, SLOW * self._distance)

    @property
    def trouble(self) -> str | None:
        silence = time.monotonic() - self._last_good
        if self._trouble is None and silence > self.quiet and not self._repeats.patient:
            return f"no data for {silence:.0f} s"
        return self._trouble

    def __iter__(self) -> Iterator[Frame | None]:
        while not self._closing.is_set():
            frame = self._take()
            if frame is None and self._over is not None and self._newest is None:
                if isinstance(self._over, Ended):
                    return
                raise self._over
            yield frame

    def _take(self) -> Frame | None:
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._over or self._closing.is_set(), POLL)
            newest, self._newest = self._newest, None
        now = time.monotonic()
        if newest is not None and now - newest[1] < FRESH:
            return newest[0]
        if self._over is not None:
            return None
        if now - self._last_sign > PATIENCE:
            why = f" ({self._trouble})" if self._trouble else ""
            raise UserError(f"{self.name}: no frame for {PATIENCE:.0f} seconds{why}, given up.")
        if now - self._heard > STALL:
            self._trouble = "the driver does not answer"
            self._start_thread(None)
        return None

    def close(self) -> None:
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        if self._capture is not None:
            self._capture.interrupt()
        self._thread.join(STALL)  # no read of a stream takes longer; a hanging driver is left behind

    def _start_thread(self, capture: Capture | None) -> None:
        if self._generation and self._capture is not None:
            self._capture.interrupt()  # of the thread that hangs
        self._generation += 1
        self._heard = time.monotonic()
        self._capture = capture
        self._thread = threading.Thread(
            target=self._run, args=(self._generation, capture), name=f"capture {self.name}", daemon=True
        )
        self._thread.start()

    def _in_charge(self, generation: int) -> bool:
        return generation == self._generation and not self._closing.is_set()

    def _run(self, generation: int, capture: Capture | None) -> None:
        try:
            self._work(generation, capture)
        except BaseException as error:  # a defect is said by the thread that iterates
            self._end(error)

    def _work(self, generation: int, capture: Capture | None) -> None:
        delay = FIRST_DELAY
        while self._in_charge(generation):
            if capture is not None:
                delay = FIRST_DELAY if self._drain(generation, capture) else delay
                capture.close()
            self._heard_from(generation)
            if self._over is not None:
                return
            self._closing.wait(delay)
            delay = min(2 * delay, LAST_DELAY)
            self._heard_from(generation)
            capture = self._reopened(generation) if self._in_charge(generation) else None
        if capture is not None:
            capture.close()

    def _reopened(self, generation: int) -> Capture | None:
        self._heard_from(generation, OPENING)
        try:
            capture = self._open()
        except Unavailable as error:
            self._complain(generation, str(error))
            return None
        if self._in_charge(generation):
            self._capture = capture
        return capture

    def _drain(self, generation: int, capture: Capture) -> bool:
        """Hand over frames until they fail to come. True when there was at least one."""
        any_frame, misses, clock = False, 0, SourceClock()
        try:
            while self._in_charge(generation) and misses < MISSES:
                self._heard_from(generation)
                shot = capture.read(lambda: self._heard_from(generation))
                if shot is None:
                    misses += 1
                    self._complain(generation, "no readable picture")
                    continue
                any_frame, misses = True, 0
                if not self._see(generation, shot, clock.captured(shot.stamp, shot.arrived)):
                    return True
        except Unavailable as error:
            self._complain(generation, str(error))
            if not self._reopen and self._in_charge(generation):
                self._end(UserError(f"{self.name}: {error}."))
        except Ended as ended:
            if self._in_charge(generation):
                self._end(ended if self._captured else UserError(f"{self.name} ended before the first picture."))
        return any_frame

    def _heard_from(self, generation: int, ahead: float = 0.0) -> None:
        if generation == self._generation:
            self._heard = time.monotonic() + ahead

    def _complain(self, generation: int, reason: str) -> None:
        if self._in_charge(generation):
            self._trouble = reason

    def _end(self, how: BaseException) -> None:
        with self._changed:
            self._over = how
            self._changed.notify()

    def _see(self, generation: int, shot: Shot, captured: float) -> bool:
        """Publish a picture, if it is for anybody to see. False when the capture should be opened anew."""
        frozen = self._repeats.frozen(shot)
        fault = shot.fault or (FROZEN if frozen else None)
        with self._changed:
            if not self._in_charge(generation):
                return False
            self._last_sign = shot.arrived  # a covered lens freezes, too: no reason to give up
            self._trouble = fault
            if shot.same and not frozen:
                return True
            if fault is None:
                if self._captured:
                    distance = min(shot.arrived - self._last_good, TIMEOUT)
                    self._distance = max(distance, FADING * self._distance)
                self._last_good = shot.arrived
            self._newest = (
                Frame(self._captured, shot.image, captured - self._started, captured, fault=fault),
                shot.arrived,
            )
            self._captured += 1
            self._changed.notify()
        return not (frozen and self._repeats.try_reopening(shot.arrived))


class _Repeats:
    """Whether the picture has been the same for too long.

    Attributes:
      after: seconds that are too long.
      patient: a picture that is polled may well be the same for long.
    """

    def __init__(self, after: float, camera: bool):
        self.patient = after > FROZEN_AFTER
        self.after, self._camera = after, camera
        self._image: np.ndarray | None = None
        self._since = 0.0
        self._next_try = self._wait = 0.0

    def frozen(self, shot: Shot) -> bool:
        image = self._image
        if image is None or not (shot.same or _equal(shot.image, image)):
            self._image, self._since = shot.image, shot.arrived
            self._wait, self._next_try = FIRST_REOPENING, 0.0
        return shot.arrived - self._since > self.after

    def try_reopening(self, now: float) -> bool:
        """Whether to open a frozen camera anew now."""
        if not self._camera or now < self._next_try:
            return False
        self._next_try, self._wait = now + self._wait, min(2 * self._wait, LAST_REOPENING)
        return True


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return (
        one.shape == other.shape and np.array_equal(one[::16, ::16], other[::16, ::16]) and np.array_equal(one, other)
    )
