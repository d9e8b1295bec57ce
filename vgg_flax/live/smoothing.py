"""A label that does not flicker: probabilities are averaged over time, and a verdict has to be left behind clearly."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from vgg_flax.answers.judge import Judge, Judgement, Verdict

GAP = 1.0  # seconds without an answer, after which the past does not count
STEADY = 10.0  # a verdict rests on an average over so many times the seconds that probabilities are averaged over
CLEARLY = 0.8  # what two answers in a row have to be ahead by, to be a change of what there is to see
CLEARLY_FAMILIAR = 1.1  # and of familiarity, a ratio
SLACK = 0.4  # by which the logit of a probability has to pass that of its threshold to change the verdict
FAMILIAR_SLACK = 1.03  # the same of familiarity, a ratio
PERSISTENTLY, LONG = 0.3, 0.8  # so far ahead of the label, for so many seconds, another class has taken its place
AHEAD = 0.1  # by which a class has to lead to become the label, and half of which it may lose before it is doubted


@dataclasses.dataclass(frozen=True)
class _Average:
    """Of probabilities, float32 `[classes]`, and of familiarity, a geometric one."""

    probabilities: np.ndarray
    familiarity: float | None

    def moved(self, judged: Judgement, share: float) -> _Average:
        """A share of the way to what was just judged."""
        familiarity = judged.familiarity
        if familiarity is not None and self.familiarity:
            familiarity = self.familiarity * (familiarity / self.familiarity) ** share
        step = np.float32(share) * (judged.probabilities - self.probabilities)
        return _Average(self.probabilities + step, familiarity)


class Smoother:
    """Judgements of single frames in, steady ones out.

    Probabilities are an exponential average that forgets what was seen `seconds` ago to a share of 1/e; label and
    verdict rest on one of STEADY times as long. A real change is not waited for: two answers in a row that clearly say
    the same other thing start both anew, and so does a class that stays ahead of the label for a while.

    Args:
      judge: whose thresholds hold.
      seconds: 0 lets every judgement through as it is.
    """

    def __init__(self, judge: Judge, seconds: float):
        self._judge, self._seconds = judge, seconds
        self.forget()

    def forget(self) -> None:
        """Whatever was seen before has nothing to do with what comes."""
        self._shown: Judgement | None = None
        self._before: Judgement | None = None
        self._at = self._held = -math.inf  # when the last answer was, and when the label was last not left behind

    def add(self, judged: Judgement, at: float) -> Judgement:
        """What to show of a judgement at the time `at`, in seconds."""
        if not self._seconds:
            return judged
        past = at - self._at
        if self._shown is None or not 0 <= past <= GAP or self._changed(judged):
            shown, self._held = judged, at
            self._fast = self._steady = _Average(judged.probabilities, judged.familiarity)
        else:
            self._fast = self._fast.moved(judged, 1 - math.exp(-past / self._seconds))
            self._steady = self._steady.moved(judged, 1 - math.exp(-past / (STEADY * self._seconds)))
            shown = self._blend(self._shown, judged)
            self._hold(shown.label, at)
        self._shown, self._before, self._at = shown, judged, at
        return shown

    def _hold(self, label: int, at: float) -> None:
        """Note whether the label is left behind, and after a while believe it."""
        probabilities = self._fast.probabilities
        if probabilities.max() - probabilities[label] <= PERSISTENTLY:
            self._held = at
        elif at - self._held >= LONG:
            self._steady, self._held = self._fast, at

    def _changed(self, judged: Judgement) -> bool:
        """Whether this answer and the one before say the same, and clearly something else than what is shown."""
        assert self._shown is not None and self._before is not None
        return all(self._differs(one) for one in (judged, self._before)) and _kind(judged) == _kind(self._before)

    def _differs(self, judged: Judgement) -> bool:
        assert self._shown is not None
        if (judged.verdict == "unlike") != (self._shown.verdict == "unlike"):
            familiarity = judged.familiarity or 1.0
            return max(familiarity, 1 / familiarity) > CLEARLY_FAMILIAR
        probabilities = judged.probabilities
        return bool(probabilities[judged.label] - probabilities[self._shown.label] > CLEARLY)

    def _blend(self, shown: Judgement, judged: Judgement) -> Judgement:
        probabilities, before = self._steady.probabilities, shown.label
        label = int(probabilities.argmax())
        label = label if probabilities[label] - probabilities[before] >= AHEAD else before
        lead = float(probabilities[label] - np.delete(probabilities, label).max(initial=0.0))
        leads = lead >= (-AHEAD / 2 if shown.verdict == "label" and label == before else AHEAD)
        verdict = self._verdict(shown.verdict, float(probabilities[label]), leads)
        fast = self._fast
        return self._judge.judgement(verdict, fast.probabilities, fast.familiarity, judged.nearest, label)

    def _verdict(self, before: Verdict, probability: float, leads: bool) -> Verdict:
        """As the judge's, but a threshold has to be passed by a little more from where the verdict is now."""
        familiarity, slack = self._steady.familiarity, FAMILIAR_SLACK if before == "unlike" else 1 / FAMILIAR_SLACK
        if familiarity is not None and familiarity < slack:
            return "unlike"
        ahead = _logit(probability) - _logit(self._judge.sure)
        return "label" if leads and ahead >= (-SLACK if before == "label" else SLACK) else "unsure"


def _logit(probability: float) -> float:
    probability = min(max(probability, 1e-7), 1 - 1e-7)
    return math.log(probability / (1 - probability))


def _kind(judged: Judgement) -> str | int:
    return "unlike" if judged.verdict == "unlike" else judged.label
