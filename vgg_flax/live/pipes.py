"""Pictures that another program writes: standard input, or a named pipe."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from pathlib import Path

from vgg_flax.live import capture
from vgg_flax.live.capture import Ended, Unavailable
from vgg_flax.live.streams import Bytes, MotionJpeg

PIECE = 1 << 20  # bytes that are read at once, at most
STEP = 0.1  # seconds between two looks at whether to go on


def open_stdin() -> MotionJpeg:
    """JPEG pictures one after the other, until the program that writes them ends."""
    if os.isatty(0):
        raise Unavailable("nothing is piped into it; try `ffmpeg ... -f mjpeg - | vgg-flax webcam --source -`")
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.setmode(0, os.O_BINARY)
        return MotionJpeg(_bytes(os.dup(0), Ended()))
    except OSError:
        raise Unavailable("it is closed") from None


def open_fifo(path: Path) -> MotionJpeg:
    """The same, from a named pipe, which another program may write to when one has ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # else it would wait for a writer
    except OSError as error:
        raise Unavailable((error.strerror or str(error)).lower()) from None
    return MotionJpeg(_bytes(descriptor, Unavailable("nothing writes to this pipe")))


def _bytes(descriptor: int, end: Exception) -> Bytes:
    reader = _Reader(descriptor)
    return Bytes(reader.some, reader.closing.set, reader.close, end)


class _Reader:
    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        self.closing = threading.Event()

    def some(self) -> bytes:
        latest = time.monotonic() + capture.TIMEOUT
        while not self._ready():
            if self.closing.is_set() or time.monotonic() > latest:
                raise Unavailable(f"no data for {capture.TIMEOUT:g} s")
        try:
            return os.read(self._descriptor, PIECE)
        except OSError as error:
            raise Unavailable((error.strerror or str(error)).lower()) from None

    def _ready(self) -> bool:
        if os.name != "posix":  # a read that waits can't be ended there
            return True
        return bool(select.select([self._descriptor], [], [], STEP)[0])

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
