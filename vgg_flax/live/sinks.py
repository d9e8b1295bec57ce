"""Files that fill while the view is live, each in a thread of its own, so that a slow disk delays no label."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from vgg_flax import files
from vgg_flax.answers.rows import csv_line, json_line, said
from vgg_flax.errors import NotSaved
from vgg_flax.live.state import Answer, State

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)
WAITING = 64  # things that may wait to be written


class Target(Protocol[T_contra]):
    """What a sink writes to. `count`: how much of it can be read."""

    @property
    def count(self) -> int: ...

    def add(self, thing: T_contra, /) -> None: ...

    def close(self) -> None: ...


class Sink(Generic[T]):
    """A thread that writes things down in their order.

    Args:
      fail: told what goes wrong in it; nothing is written after that.
      most: so many may wait.
    """

    def __init__(self, target: Target[T], fail: Callable[[BaseException], object], most: int = WAITING):
        self.target = target
        self._fail = fail
        self._queue: queue.Queue[T | None] = queue.Queue(most)
        self._failed = False
        self._thread = threading.Thread(target=self._run, name="sink", daemon=True)
        self._thread.start()

    def add(self, thing: T) -> None:
        """Write it, sooner or later; waits where too much waits already."""
        self._queue.put(thing)

    def offer(self, thing: T) -> None:
        """The same, but where too much waits already it is left out."""
        if not self._queue.full():
            self._queue.put(thing)

    def close(self) -> None:
        """Write what waits, then close the file."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (thing := self._queue.get()) is not None:
            self._try(lambda thing=thing: self.target.add(thing))
        self._try(self.target.close, always=True)

    def _try(self, step: Callable[[], object], always: bool = False) -> None:
        if self._failed and not always:
            return
        try:
            step()
        except BaseException as error:  # whatever it is, somebody says it
            self._failed = True
            self._fail(error)


class Rows:
    """A new text file with a line for each row, on disk as soon as it is known: lines of JSON, or CSV with a header.

    A line that the disk takes only half of is taken back.

    Args:
      option: `--json` or `--csv`.

    Raises:
      UserError: the file exists, or can't be made.
    """

    def __init__(self, option: str, path: Path):
        files.check_new(option, path)
        self.path, self.count = path, 0
        self._option = option
        self._file: BinaryIO | None = None

    def add(self, row: dict[str, Any]) -> None:
        """Raises NotSaved when the disk refuses."""
        try:
            if self._file is None:
                files.check_new(self._option, self.path)  # again: loading the model took a while
                self._file = self.path.open("xb", buffering=0)
                if self._option == "--csv":
                    self._write(csv_line(row))
            self._write(csv_line(row.values()) if self._option == "--csv" else json_line(row))
        except OSError as error:
            raise NotSaved(f"{self._option} {self.path}: {error.strerror}, after {self.count} lines.") from None
        self.count += 1

    def _write(self, line: str) -> None:
        assert self._file is not None
        data, place = line.encode(errors="backslashreplace") + b"\n", self._file.tell()
        try:
            written = 0
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            self._file.truncate(place)
            raise

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __str__(self) -> str:
        return f"{self.path} ({self.count} lines)"


def row(answer: Answer | None, state: State) -> dict[str, Any]:
    """{column: value} of an answer, JSON types; of a moment without a signal nothing but where and why."""
    frame = answer.frame if answer else None
    return {
        "source": state.source,
        "file": frame.file if frame else None,
        "frame": frame.index if frame else None,
        "time_s": round(frame.time_s, 4) if frame else None,
        **said(answer.plain if answer else None, state.classes),
        "inference_ms": round(answer.inference_ms, 3) if answer else None,
        "age_ms": round(answer.age_ms, 1) if answer and answer.age_ms is not None else None,
        "trouble": None if answer else state.trouble,
        "hint": ", ".join(state.doubts) or None,
    }
