"""Pictures that a person keeps, each with what was said of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import cv2

from vgg_flax import files
from vgg_flax.answers.rows import json_line
from vgg_flax.live.painter import Painter
from vgg_flax.live.scene import natural_size
from vgg_flax.live.sinks import row
from vgg_flax.live.state import State


class Snapshots:
    """What a sink writes to: the frame as it came, the view of it, and a row of what is said of it.

    Args:
      tell: told where it lies, and that in words; or None, and why it could not be kept.
    """

    def __init__(self, folder: Path, painter: Painter, tell: Callable[[Path | None, str], None]):
        self.count = 0
        self._folder, self._painter, self._tell = folder, painter, tell

    def add(self, state: State) -> None:
        """A State that has an answer. All of it is kept, or nothing."""
        assert state.answer is not None
        state, frame = dataclasses.replace(state, frame=state.answer.frame, notice=("", 0.0)), state.answer.frame.image
        view = self._painter.paint(state, *natural_size(frame.shape[1], frame.shape[0], len(state.classes)))
        paths: list[Path] = []
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = new_name(self._folder, ".png")
            for ending, data in (
                (".json", json_line(row(state.answer, state)).encode() + b"\n"),
                (".view.png", cv2.imencode(".png", view)[1].tobytes()),
                (".png", cv2.imencode(".png", frame)[1].tobytes()),
            ):
                paths.append(path.with_suffix(ending))
                files.write_atomic(paths[-1], data)
        except OSError as error:
            for one in paths:
                one.unlink(missing_ok=True)
            return self._tell(None, f"not kept: {error.strerror}")
        self.count += 1
        self._tell(path, f"kept as {path}")

    def close(self) -> None: ...


def new_name(folder: Path, ending: str) -> Path:
    """A name that nothing in the folder has yet: the date and the time of day."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    names = (f"{stamp}{more}" for more in ["", *(f"-{i}" for i in range(2, 1000))])
    return next(folder / f"{one}{ending}" for one in names if not [*folder.glob(f"{one}.*")])
