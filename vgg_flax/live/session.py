"""A live view from its first frame to its last: who runs in which thread, and the one way out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from vgg_flax.answers.predictor import Predictor
from vgg_flax.errors import UserError
from vgg_flax.live.capture import Source
from vgg_flax.live.control import Control
from vgg_flax.live.film import Film
from vgg_flax.live.latest import Latest
from vgg_flax.live.painter import Painter
from vgg_flax.live.pump import Pump
from vgg_flax.live.recorded import LONGEST_FRAME
from vgg_flax.live.recording import LONGEST_GAP, Recording
from vgg_flax.live.sinks import Rows, Sink, row
from vgg_flax.live.snapshots import Snapshots, new_name
from vgg_flax.live.state import Answer, Board, State
from vgg_flax.live.worker import Worker

TURN = 0.01  # seconds that faces wait for something new: of keys that come meanwhile, Qt keeps the last one
SILENT_ROW = 1.0  # seconds between two rows that say that there is no signal
PATIENCE = 10.0  # seconds that a label which is being computed is waited for at the end
QUEUED = 8  # views that may wait to be written


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
        self._rows = [Sink(one, self.board.fail) for one in rows]
        self._film: Sink[State] | None = None
        self._snapshots = Sink(Snapshots(folder, painter(), self._kept), self.board.fail)
        self._silent_row = 0.0
        self._latest = Latest(every)
        self._pump = Pump(source, self._latest, self.board, paced, self._seen)
        self._worker = Worker(predictor, self._latest, self.board, smooth, self._said, most)
        if recording:
            self._start_film(recording, self.board.fail)

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
            self._obey()
            state = self.board.state
            if state.error:
                raise state.error
            for face in faces:
                face.show(state)
            if state.ended and not hold:
                return

    def _obey(self) -> None:
        before = self.board.state
        self.control.obey()
        state = self.board.state
        changed = (before.region, before.evidence) != (state.region, state.evidence)
        if changed and (state.paused or state.ended) and state.frame and not state.trouble and not state.frame.fault:
            self._latest.again(state.frame)  # no other comes, of which to say it

    def finish(self) -> None:
        """Stop every thread and complete every file. What goes wrong meanwhile is on the board."""
        self._pump.stop()
        if self._worker.ident:
            self._worker.join(PATIENCE)
        self.seconds = time.monotonic() - self._started
        self._stop_film()
        self._snapshots.close()
        for sink in self._rows:
            sink.close()
            if sink.target.count:
                self.written.append(str(sink.target))
        self._source.close()

    def _seen(self, state: State) -> None:
        """In the pump's thread: a State with a new frame, or without one for a while."""
        film = self._film  # the main thread may take it away
        if film and not self._every:
            film.offer(state)
        if state.trouble and time.monotonic() - self._silent_row > SILENT_ROW:
            self._silent_row = time.monotonic()
            for sink in self._rows:
                sink.add(row(None, state))

    def _said(self, answer: Answer, state: State) -> None:
        """In the worker's thread."""
        for sink in self._rows:
            sink.add(row(answer, state))
        film = self._film
        if film and self._every:
            film.add(state)

    def _kept(self, path: Path | None, words: str) -> None:
        """In the thread of the snapshots."""
        if path:
            self.written.append(str(path))
        self.board.tell(words)

    def _record(self) -> None:
        wanted = not self.board.state.recording
        self._stop_film()  # also one that the disk has refused
        if not wanted:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._start_film(new_recording(new_name(self._folder, ".mp4"), self._source), self._film_failed)
        except UserError as error:
            self.board.tell(str(error).removeprefix("--save "))
        except OSError as error:
            self.board.tell(f"not recorded: {error.strerror}")

    def _film_failed(self, error: BaseException) -> None:
        """In the thread of a film that a key asked for: the view goes on without it."""
        if not isinstance(error, UserError):
            return self.board.fail(error)
        self.board.update(recording=False)
        self.board.tell(str(error).removeprefix("--save "))

    def _start_film(self, recording: Recording, fail: Callable[[BaseException], object]) -> None:
        self._film = Sink(Film(recording, self._painter(), self._source.live), fail, QUEUED)
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
        if self.board.state.answer is None:
            return self.board.tell("no label to keep")
        self._snapshots.add(self.board.state)


def new_recording(path: Path, source: Source) -> Recording:
    """At a source's rate. Raises as `Recording`."""
    return Recording(path, source.fps, LONGEST_GAP if source.live else LONGEST_FRAME)
