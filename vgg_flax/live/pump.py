"""The thread that takes frames from a source, at its own rate, to whoever looks at them."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from vgg_flax.live.capture import Frame, Source
from vgg_flax.live.health import hint
from vgg_flax.live.latest import Latest
from vgg_flax.live.rate import Rate
from vgg_flax.live.state import Board, State

TICK = 0.05  # seconds between two looks at whether to go on
NO_SIGNAL_AFTER = 1.0  # seconds without a good frame until the old label is taken away


class Pump(threading.Thread):
    """Puts up each frame, hands the good ones to be labelled, and takes the label away when none come.

    A pause holds a recording. A camera goes on meanwhile, and what it shows then is not seen.

    Args:
      paced: a recording plays at its own rate; otherwise as fast as it is labelled.
      seen: told each new State, in this thread.
    """

    def __init__(self, source: Source, latest: Latest, board: Board, paced: bool, seen: Callable[[State], object]):
        super().__init__(name=f"pump {source.name}", daemon=True)
        self._source, self._latest, self._board = source, latest, board
        self._paced, self._seen = paced, seen
        self._rate = Rate()
        self._fault: str | None = None  # of the last frame
        self._good = time.monotonic()  # when the last frame came that could be labelled
        self._began: float | None = None  # on this clock, the time 0 of a recording
        self._stopping = threading.Event()

    def run(self) -> None:
        try:
            for frame in self._source:
                if self._stopping.is_set():
                    return
                self._pass_on(frame)
        except BaseException as error:  # whatever it is, the main thread says it
            self._board.fail(error)
        finally:
            self._latest.end()

    def stop(self) -> None:
        """Take no more frames."""
        self._stopping.set()
        self._latest.end(at_once=True)

    def _pass_on(self, frame: Frame | None) -> None:
        if frame is not None:
            if not self._source.live:
                self._wait_until_due(frame)
                frame = dataclasses.replace(frame, captured=time.monotonic())
            fault = self._fault = frame.fault
            self._good = self._good if fault else time.monotonic()
            if self._board.state.paused:
                return
            rate = self._rate.tick(time.monotonic())
            more: dict[str, Any] = {} if self._latest.every else {"frame": frame}
            more |= {} if fault else {"trouble": None}
            self._board.update(capture_rate=rate, hint=fault or hint(frame.image), **more)
            if not fault:
                self._latest.put(frame)
        silent = self._source.live and time.monotonic() - self._good > max(NO_SIGNAL_AFTER, self._source.quiet)
        if silent and not self._board.state.paused:
            why = self._source.trouble or self._fault
            self._latest.drop()
            trouble = f"no signal: {why}" if why else "no signal"
            self._board.update(trouble=trouble, answer=None, heat=None, hint=None, capture_rate=0.0, label_rate=0.0)
        self._seen(self._board.state)

    def _wait_until_due(self, frame: Frame) -> None:
        """Of a recording: until it is this frame's turn."""
        if self._began is None:
            self._began = time.monotonic() - frame.time_s
        while not self._stopping.is_set():
            if self._board.state.paused:
                before = time.monotonic()
                self._stopping.wait(TICK)
                self._began += time.monotonic() - before
            elif self._paced and (early := self._began + frame.time_s - time.monotonic()) > 0:
                self._stopping.wait(min(TICK, early))
            else:
                return
