"""A live view from its first frame to its last: who runs in which thread, and the one way out."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cv2

from vgg_flax import files
from vgg_flax.answers.predictor import Predictor
from vgg_flax.answers.rows import json_line, said
from vgg_flax.errors import UserError
from vgg_flax.live.capture import Source
from vgg_flax.live.control import Control
from vgg_flax.live.film import Film
from vgg_flax.live.latest import Latest
from vgg_flax.live.painter import Painter
from vgg_flax.live.pump import Pump
from vgg_flax.live.recording import Recording
from vgg_flax.live.scene import natural_size
from vgg_flax.live.sinks import Rows, Sink
from vgg_flax.live.state import Answer, Board, State
from vgg_flax.live.worker import Worker

TURN = 0.05  # seconds that faces wait for something new
SILENT_ROW = 1.0  # seconds between two rows that say that there is no signal
PATIENCE = 10.0  # seconds that a label which is being computed is waited for at the end
QUEUED = 8  # views that may wait to be written
LIVE_FPS = 15.0  # of recordings of a live source


class Face(Protocol):
    """What shows a State."""

    def show(self, state: State) -> None: ...


class Session:
    """The threads of a live view, and what they share.

    Args:
      first: what the view is called, and which switches are on at first.
      every: each frame is labelled; otherwise the newest.
      paced: a recording plays at its own rate.
      smooth: seconds, see `Smoother`; files get what was said of single frames.
      most: stop after so many labels.
      rows: text files to fill.
      recording: a video to fill from the start.
      folder: for snapshots and recordings that a key asks for.
      painter: makes one for each face and file.
    """

    def __init__(
        self,
        source: Source,
        predictor: Predictor,
        first: State,
        *,
        every: bool,
        paced: bool,
        smooth: float,
        most: int | None,
        rows: list[Rows],
        recording: Recording | None,
        folder: Path,
        painter: Callable[[], Painter],
    ):
        self.board = Board(first)
        self.control = Control(self.board, {"snapshot": self._snapshot, "record": self._record})
        self.written: list[str] = []
        self.seconds = self._started = 0.0  # how long it ran; when it began
        self._source, self._every, self._folder, self._painter = source, every, folder, painter
        self._rows = [Sink(one, self.board) for one in rows]
        self._film: Sink[State] | None = None
        self._silent_row = 0.0
        latest = Latest(every)
        self._pump = Pump(source, latest, self.board, paced, self._seen)
        self._worker = Worker(predictor, latest, self.board, smooth, self._said, most)
        if recording:
            self._start_film(recording)

    def run(self, faces: list[Face], check: Callable[[], None], hold: bool) -> None:
        """Show every State until the person or the source has had enough; `check` may raise to end it.

        Args:
          hold: what was shown last stays until the person quits.
        """
        self._started = time.monotonic()
        self._pump.start()
        self._worker.start()
        state = self.board.state
        while not self.control.quit:
            check()
            self.board.wait(state, TURN)
            self.control.obey()
            state = self.board.state
            if state.error:
                raise state.error
            for face in faces:
                face.show(state)
            if state.ended and not hold:
                return

    def finish(self) -> None:
        """Stop every thread and complete every file; raises what went wrong in one of them only now."""
        self._pump.stop()
        if self._worker.ident:
            self._worker.join(PATIENCE)
        self.seconds = time.monotonic() - self._started
        self._stop_film()
        for sink in self._rows:
            sink.close()
            if sink.target.count:
                self.written.append(str(sink.target))
        self._source.close()

    def _seen(self, state: State) -> None:
        """In the pump's thread: a State with a new frame, or without one for a while."""
        if self._film and not self._every:
            self._film.offer(state)
        if state.trouble and time.monotonic() - self._silent_row > SILENT_ROW:
            self._silent_row = time.monotonic()
            for sink in self._rows:
                sink.add(row(None, state))

    def _said(self, answer: Answer, state: State) -> None:
        """In the worker's thread."""
        for sink in self._rows:
            sink.add(row(answer, state))
        if self._film and self._every:
            self._film.add(state)

    def _record(self) -> None:
        if self._film:
            return self._stop_film()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._start_film(Recording(self._new(".mp4"), self._fps))
        except (UserError, OSError) as error:
            self.board.tell(str(error))

    @property
    def _fps(self) -> float:
        return LIVE_FPS if self._source.live else self._source.fps

    def _start_film(self, recording: Recording) -> None:
        self._film = Sink(Film(recording, self._painter(), self._source.live), self.board, QUEUED)
        self.board.update(recording=True)

    def _stop_film(self) -> None:
        film, self._film = self._film, None
        if film is None:
            return
        self.board.update(recording=False)
        film.close()
        if film.target.count:
            self.written.append(str(film.target))
            self.board.tell(f"wrote {film.target}")

    def _snapshot(self) -> None:
        """The frame as it came, the view of it, and what is said of it."""
        state = self.board.state
        if (answer := state.answer) is None:
            return self.board.tell("no label to keep")
        state, frame = dataclasses.replace(state, frame=answer.frame, notice=("", 0.0)), answer.frame.image
        view = self._painter().paint(state, *natural_size(frame.shape[1], frame.shape[0], len(state.classes)))
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._new(".png")
            files.write_atomic(path.with_suffix(".json"), json_line(row(answer, state)).encode() + b"\n")
            files.write_atomic(path.with_suffix(".view.png"), cv2.imencode(".png", view)[1].tobytes())
            files.write_atomic(path, cv2.imencode(".png", frame)[1].tobytes())
        except (UserError, OSError) as error:
            return self.board.tell(str(error))
        self.written.append(str(path))
        self.board.tell(f"kept as {path}")

    def _new(self, ending: str) -> Path:
        """A name that nothing has yet: the date and the time of day."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        names = (f"{stamp}{more}" for more in ["", *(f"-{i}" for i in range(2, 1000))])
        return next(self._folder / f"{one}{ending}" for one in names if not [*self._folder.glob(f"{one}.*")])


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
