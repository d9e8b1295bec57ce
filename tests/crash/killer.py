"""Run a function and kill this process, as `kill -9` or Ctrl-C does, at a chosen call to the system.

    python -m tests.crash.killer POINT MODULE FUNCTION [ARGUMENT ...]

Counted are the calls by which Python code changes files; a write counts twice, the second time half of it is written.
With POINT 0 nothing is killed. The name of each point is appended to the file that CRASH_POINTS names. CRASH_SIGNAL is
the name of the signal; unset: SIGKILL.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil  # noqa: F401  # it looks at the functions of os when it is imported
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vgg_flax import ending

CALLS = ("fsync", "ftruncate", "posix_fallocate", "rename", "replace", "unlink", "mkdir", "rmdir", "utime")
WRITES = ("write", "pwrite")


class Points:
    """Counts points, and kills at the chosen one."""

    def __init__(self, chosen: int, log: Path | None):
        self.chosen, self.log, self.passed = chosen, log, 0
        self.signal = signal.Signals[os.environ.get("CRASH_SIGNAL", "SIGKILL")]

    def reach(self, name: str, last_words: Callable[[], object] = lambda: None) -> None:
        """One point; `last_words` is called if it is the chosen one."""
        self.passed += 1
        if self.log:
            with self.log.open("a") as file:
                file.write(f"{name}\n")
        if self.passed == self.chosen:
            if self.signal == signal.SIGKILL:
                last_words()
            os.kill(os.getpid(), self.signal)


def watch(points: Points) -> None:
    """Make every call of interest a point."""
    for name in CALLS:
        if hasattr(os, name):
            setattr(os, name, _counted(points, name, getattr(os, name)))
    for name in WRITES:
        setattr(os, name, _halved(points, name, getattr(os, name)))


def _counted(points: Points, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def counted(*args: Any, **options: Any) -> Any:
        points.reach(name)
        return call(*args, **options)

    return counted


def _halved(points: Points, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def halved(descriptor: int, data: Any, *offset: int) -> int:
        points.reach(name)
        points.reach(f"half a {name}", lambda: call(descriptor, data[: len(data) // 2], *offset))
        return call(descriptor, data, *offset)

    return halved


def main(point: str, module: str, function: str, *args: str) -> None:
    """Import first, so that only the work is counted and timed."""
    run = getattr(importlib.import_module(module), function)
    log = os.environ.get("CRASH_POINTS")
    ending.own_signals()
    print("begin", flush=True)
    watch(Points(int(point), Path(log) if log else None))
    run(*args)


if __name__ == "__main__":
    main(*sys.argv[1:])
    ending.leave(0)  # as our program does: Python's own end takes the handlers away first
