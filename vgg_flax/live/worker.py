"""The thread in which the model works: a frame's view, its features, the head, what the judge says of it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vgg_flax.answers.predictor import Predictor
from vgg_flax.insight.explain import explain
from vgg_flax.live.capture import Frame
from vgg_flax.live.health import ColourCheck
from vgg_flax.live.latest import Latest
from vgg_flax.live.rate import Rate
from vgg_flax.live.smoothing import Smoother
from vgg_flax.live.state import Answer, Board, Heat, State
from vgg_flax.network.preprocess import prepare_frame

HEAT_SHARE = 0.2  # of the time, at most, goes into heat maps
HEAT_SIDE = 112  # pixels


class Worker(threading.Thread):
    """Labels the newest frame again and again.

    Args:
      predictor: made with `maps`, so that evidence costs no second run of the network.
      smooth: seconds, see `Smoother`.
      said: told each new answer, with the State that holds it, in this thread.
      most: stop after so many answers.
    """

    def __init__(
        self,
        predictor: Predictor,
        latest: Latest,
        board: Board,
        smooth: float,
        said: Callable[[Answer, State], object],
        most: int | None = None,
    ):
        super().__init__(name="worker", daemon=True)
        self._predictor, self._latest, self._board, self._said, self._most = predictor, latest, board, said, most
        self._smoother = Smoother(predictor.bundle.judge, smooth)
        self._rate = Rate()
        self._region = board.state.region
        self._heat_due = 0.0
        self._colours = ColourCheck()
        self._last: Frame | None = None

    def run(self) -> None:
        try:
            self._label_all()
            self._board.update(ended=True)
            self._label_all(after_end=True)
        except BaseException as error:  # whatever it is, the main thread says it
            self._board.fail(error)
        finally:
            self._latest.end(at_once=True)

    def _label_all(self, after_end: bool = False) -> None:
        while self._most != self._board.state.labelled and (frame := self._latest.take(after_end)) is not None:
            self._label(frame)

    def _label(self, frame: Frame) -> None:
        state = self._board.state
        again, self._last = frame is self._last, frame
        if state.region != self._region:
            self._region = state.region
            self._smoother.forget()
            self._heat_due = 0.0
        started = time.monotonic()
        seen = dataclasses.replace(self._predictor.preprocessing, region=state.region)
        image = prepare_frame(frame.image, seen)
        outputs = self._predictor.extractor(image[None])
        judged = self._predictor.bundle.judge.judge(*self._predictor.answer(outputs))[0]
        shown = self._smoother.add(judged, frame.time_s)
        heat = self._heat(outputs, shown.label) if state.evidence else None
        now = time.monotonic()
        prediction, plain = self._predictor.prediction(shown), self._predictor.prediction(judged)
        age = None if self._latest.every or again else 1000 * (now - frame.captured)
        answer = Answer(frame, prediction, plain, 1000 * (now - started), age)
        if again:  # somebody wants to know more of it; it was counted and written before
            self._board.update(answer=answer, heat=heat)
            return
        more = {"frame": frame} if self._latest.every else {}  # the view shows no frame before its label
        state = self._board.answered(answer, heat=heat, label_rate=self._rate.tick(now), **more)
        self._said(answer, state)
        if self._colours.wants(now) and not self._latest.every:
            logits, averages = self._predictor.run(image[None, ..., ::-1])
            turned = self._predictor.bundle.judge.judge(logits, averages)[0]
            self._colours.add(judged.familiarity, turned.familiarity, now)
            self._board.update(swapped=self._colours.swapped)

    def _heat(self, outputs: Mapping[str, Any], label: int) -> Heat | None:
        """Of this frame, where there is time for it or the label is new; otherwise the last one."""
        started, last = time.monotonic(), self._board.state.heat
        new = last is None or last.label != self._predictor.classes[label]
        if started < self._heat_due and not self._latest.every and not new:
            return last
        predictor = self._predictor
        found = explain(predictor.bundle.spec, predictor.head, outputs, np.array([label]))
        heat = found.shown(HEAT_SIDE)[0].clip(0)
        now = time.monotonic()
        self._heat_due = now + (now - started) * (1 / HEAT_SHARE - 1)
        return Heat(predictor.classes[label], heat / max(float(heat.max()), 1e-12))
