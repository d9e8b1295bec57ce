"""How a program ends when a signal asks it to: with one line and exit code 128 + its number, at once or in order.

Ctrl-C is 130, SIGTERM 143, and SIGHUP, which comes when a terminal is closed, 129.

Handlers must be there before anything heavy is imported, so this module itself imports next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
GRACE = 3.0  # seconds in which a program that listens should come to a place where it can stop
STEP = 0.05  # seconds between two looks of the watcher
CLEAR_LINE, SHOW_CURSOR = b"\r\x1b[2K", b"\x1b[?25h"  # a bar may stand there, and hide the cursor


class Stopped(Exception):
    """A signal asked for an end; everything is saved. `code` is the exit code."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class _State:
    """Of this process.

    Attributes:
      owned: it is a program of ours from its first statement on.
      listening: somebody calls `check`.
      saving: how many things are being saved that should be whole.
      seen: the signal that came, or 0.
      raised: `check` has raised; the program ends in order.
      error_output: a descriptor of standard error as it was at the start.
    """

    owned = listening = raised = False
    saving = seen = 0
    error_output = 2
    watched = False
    ended: list[bool] = []  # noqa: RUF012  # one process has one


last_steps: list[
    Callable[[], str | None]
] = []  # before an end at once; what they return is said. No locks, no imports.


def own_signals() -> None:
    """For the first statement of a program: a signal ends it at once, with a line, until it is `listening`.

    This holds as well where whoever started it had Ctrl-C ignored, as a shell script does for `command &`; but what
    `nohup` has ignored stays so.
    """
    _State.owned, _State.error_output = True, os.dup(2)
    for number in SIGNALS:
        if number in SIGNALS[:2] or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _caught)


def _caught(number: int, frame: FrameType | None) -> None:
    if not _State.listening or _State.seen:
        end_at_once(number)
    _State.seen = number


def end_at_once(number: int) -> None:
    """Remove what is half done, say how to go on, and leave without another statement of the program."""
    if _State.ended:  # another thread does it
        return
    _State.ended.append(True)
    words = []
    for step in last_steps[::-1]:
        with contextlib.suppress(Exception):
            words.append(step())
    _stop_children()
    how_to_go_on = " ".join(filter(None, words)) or "Start it again with the same command."
    line = f"stopped by {signal.Signals(number).name}. {how_to_go_on}\n".encode(errors="replace")
    with contextlib.suppress(OSError):
        os.write(_State.error_output, (CLEAR_LINE + SHOW_CURSOR if os.isatty(_State.error_output) else b"") + line)
    os._exit(128 + number)


def leave(code: int) -> None:
    """Leave without the farewells of libraries, whose threads still hold arrays, or what could not be saved."""
    for step in [*last_steps[::-1], sys.stdout.flush, sys.stderr.flush]:
        with contextlib.suppress(Exception):
            step()
    os._exit(code)


def _stop_children() -> None:
    """What this process has started, where the system tells."""
    with contextlib.suppress(OSError, ValueError):
        for task in os.listdir("/proc/self/task"):  # noqa: PTH208  # pathlib is not imported yet
            with open(f"/proc/self/task/{task}/children") as file:  # noqa: PTH123
                for child in file.read().split():
                    os.kill(int(child), signal.SIGTERM)


@contextlib.contextmanager
def listening() -> Iterator[Callable[[], None]]:
    """Inside the block the first signal is remembered; the second one takes effect at once.

    Where the program is ours and does not call `check` within a few seconds, as in the middle of a long compilation,
    it ends all the same: what matters is saved so that a run survives `kill -9`.

    Yields:
      A function `check` that raises Stopped once a signal has come.
    """
    if _State.owned:
        _watch()
        _State.listening = True
        try:
            yield _check_owned
        finally:
            _State.listening = False
            if _State.seen and not _State.raised:
                end_at_once(_State.seen)
        return
    seen: list[int] = []
    with _remembered(seen):
        yield lambda: _check(seen)
    _check(seen)


def _check_owned() -> None:
    if _State.seen:
        _State.raised = True
        raise Stopped(_State.seen)


def _check(seen: list[int]) -> None:
    if seen:
        raise Stopped(seen[0])


@contextlib.contextmanager
def _remembered(seen: list[int]) -> Iterator[None]:
    """Handlers for a while, in a program of somebody else. In other threads than the first there are none."""

    def remember(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(number, signal.SIG_DFL)

    import threading

    first = threading.current_thread() is threading.main_thread()
    with _handling(remember) if first else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def _handling(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """All of them go to a handler for a while."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextlib.contextmanager
def saving() -> Iterator[None]:
    """What is saved inside the block is not cut by the first signal, however long it takes."""
    _State.saving += 1
    try:
        yield
    finally:
        _State.saving -= 1


def _watch() -> None:
    """Handlers of Python run between two of its statements. The system tells a descriptor, at any time."""
    if _State.watched or os.name != "posix":
        return
    import threading

    _State.watched = True
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_late, args=(reader,), daemon=True, name="ending").start()


def _end_late(reader: int) -> None:
    """End the program when a signal was not answered in time, or a second one came."""
    import select

    number = os.read(reader, 1)[0]
    latest, again = time.monotonic() + GRACE, False
    while not again and (time.monotonic() < latest or _State.saving or _State.raised):
        again = bool(select.select([reader], [], [], STEP)[0])
    end_at_once(number)
