"""All that faces and files know: a snapshot that never changes, the board that holds the newest one, and commands."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vgg_flax.live.capture import Frame

if TYPE_CHECKING:  # JAX takes seconds to import, and nothing here needs it
    from vgg_flax.answers.predictor import Prediction

NOTICE = 3.0  # seconds that a notice stays


@dataclasses.dataclass(frozen=True)
class Answer:
    """What is said of one frame.

    Attributes:
      prediction: as it is shown, smoothed over time.
      plain: of this frame alone.
      inference_ms: milliseconds from the frame's pixels to `plain`.
      age_ms: milliseconds from the moment the frame was taken, or shown, until then; None of a recording that is read
        as fast as it is labelled.
    """

    frame: Frame
    prediction: Prediction
    plain: Prediction
    inference_ms: float
    age_ms: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Heat:
    """Where in the region the model sees a class.

    Attributes:
      label: the class.
      values: float32 `[side, side]` in 0..1.
    """

    label: str
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class State:
    """A moment of a live view.

    Attributes:
      source, model: what they are called.
      classes: names, in the order of the probabilities.
      region: the part of the frame that the model sees, as `region.shares` reads it.
      frame: the newest one; the label belongs to `answer.frame`, which is a little older.
      answer: the newest; None before the first, and while there is no picture to speak of.
      heat: where the shown class is seen, while `evidence` is on.
      trouble: why there is nothing to label, such as "no signal"; None when all is well.
      hint: what makes the label doubtful, such as "too dark".
      swapped: red and blue seem to come in the wrong order.
      paused, mirror, recording, evidence, nearest, help: switches, see `control.KEYS`.
      capture_rate, label_rate: a second, lately.
      labelled: answers so far.
      notice: a sentence for a moment, and `time.monotonic()` when it goes.
      ended: the source has no more frames, and all were labelled.
      error: what ended it.
    """

    source: str = ""
    model: str = ""
    classes: tuple[str, ...] = ()
    region: str = "full"
    frame: Frame | None = None
    answer: Answer | None = None
    heat: Heat | None = None
    trouble: str | None = None
    hint: str | None = None
    swapped: bool = False
    paused: bool = False
    mirror: bool = False
    recording: bool = False
    evidence: bool = False
    nearest: bool = False
    help: bool = False
    capture_rate: float = 0.0
    label_rate: float = 0.0
    labelled: int = 0
    notice: tuple[str, float] = ("", 0.0)
    ended: bool = False
    error: BaseException | None = None

    def summary(self) -> str:
        """What a terminal shows of it, in one line."""
        if self.trouble or self.answer is None:
            return f"{self.trouble or 'no label yet'}   {self.source}"
        prediction = self.answer.prediction
        probability = f"{prediction.probability:.1%}   " if prediction.verdict == "label" else ""
        hint = "".join(f"   {one}" for one in self.doubts)
        name = f"   {self.answer.frame.file}" if self.answer.frame.file else ""
        return f"{self.answer.frame.index:6d}   {prediction.words}   {probability}{self.speed()}{name}{hint}"

    @property
    def doubts(self) -> tuple[str, ...]:
        """What makes the label doubtful, in words."""
        return tuple(filter(None, (self.hint, "red and blue swapped?" if self.swapped else None)))

    def speed(self) -> str:
        """Labels a second, and how old the frame was when its label was known."""
        age = self.answer.age_ms if self.answer else None
        parts = [f"{self.label_rate:.1f} labels/s"] if self.label_rate else []  # unknown at the first
        return "   ".join(parts + ([f"{age:.0f} ms"] if age is not None else []))


class Board:
    """Holds the newest State. Every thread reads it, each changes what is its own."""

    def __init__(self, state: State):
        self.state = state
        self._changed = threading.Condition(threading.RLock())

    def update(self, **changes: Any) -> State:
        """Put up a new snapshot in which some things have changed, and return it."""
        with self._changed:
            self.state = dataclasses.replace(self.state, **changes)
            self._changed.notify_all()
            return self.state

    def answered(self, answer: Answer, **changes: Any) -> State:
        """The same with an answer, which counts only while there is a picture to speak of."""
        with self._changed:
            said = None if self.state.trouble else answer
            return self.update(answer=said, labelled=self.state.labelled + 1, **changes)

    def tell(self, notice: str) -> None:
        """Show a sentence for a moment."""
        self.update(notice=(notice, time.monotonic() + NOTICE))

    def fail(self, error: BaseException) -> None:
        """The first error ends everything."""
        with self._changed:
            self.update(error=self.state.error or error)

    def wait(self, known: State, seconds: float) -> State:
        """The newest snapshot; where it is still the known one, after a change or so many seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.state is not known, seconds)
            return self.state


class Command(NamedTuple):
    """What a person wants: a switch of State, `snapshot`, `record`, `region` with its value, or `quit`."""

    name: str
    value: str = ""
