"""A label that does not flicker: probabilities are averaged over time, and a verdict has to be left behind clearly."""

from __future__ import annotations

import math

import numpy as np

from vgg_flax.answers.judge import Judge, Judgement, Verdict

GAP = 1.0  # seconds without an answer, after which the past does not count
CLEARLY = 0.5  # what two answers in a row have to be ahead by, to be a change of what there is to see
SLACK = 0.4  # by which the logit of a probability has to pass that of its threshold to change the verdict
FAMILIAR_SLACK = 1.03  # the same of familiarity, a ratio
AHEAD = 0.1  # by which another class has to lead to become the label


class Smoother:
    """Judgements of single frames in, steady ones out.

    An exponential average forgets what was seen `seconds` ago to a share of 1/e. A real change is not waited for: two
    answers in a row that clearly say the same other thing start anew.

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
        self._at = -math.inf

    def add(self, judged: Judgement, at: float) -> Judgement:
        """What to show of a judgement at the time `at`, in seconds."""
        if not self._seconds:
            return judged
        past = at - self._at
        if self._shown is None or not 0 <= past <= GAP or self._changed(judged):
            shown = judged
        else:
            shown = self._blend(self._shown, judged, 1 - math.exp(-past / self._seconds))
        self._shown, self._before, self._at = shown, judged, at
        return shown

    def _changed(self, judged: Judgement) -> bool:
        """Whether this answer and the one before say the same, and clearly something else than what is shown."""
        assert self._shown is not None and self._before is not None
        return all(self._differs(one) for one in (judged, self._before)) and _kind(judged) == _kind(self._before)

    def _differs(self, judged: Judgement) -> bool:
        assert self._shown is not None
        if (judged.verdict == "unlike") != (self._shown.verdict == "unlike"):
            familiarity = judged.familiarity or 1.0
            return max(familiarity, 1 / familiarity) > FAMILIAR_SLACK
        probabilities = judged.probabilities
        return bool(probabilities[judged.label] - probabilities[self._shown.label] > CLEARLY)

    def _blend(self, shown: Judgement, judged: Judgement, share: float) -> Judgement:
        probabilities = shown.probabilities + np.float32(share) * (judged.probabilities - shown.probabilities)
        familiarity = judged.familiarity
        if familiarity is not None and shown.familiarity:
            familiarity = shown.familiarity * (familiarity / shown.familiarity) ** share
        best = int(probabilities.argmax())
        lead = float(probabilities[best] - np.delete(probabilities, best).max(initial=0.0))
        label = best if lead >= AHEAD else shown.label
        verdict = self._verdict(shown.verdict, familiarity, float(probabilities[label]), lead >= AHEAD)
        return self._judge.judgement(verdict, probabilities, familiarity, judged.nearest, label)

    def _verdict(self, before: Verdict, familiarity: float | None, probability: float, leads: bool) -> Verdict:
        """As the judge's, but a threshold has to be passed by a little more from where the verdict is now."""
        slack = FAMILIAR_SLACK if before == "unlike" else 1 / FAMILIAR_SLACK
        if familiarity is not None and familiarity < slack:
            return "unlike"
        ahead = _logit(probability) - _logit(self._judge.sure)
        return "label" if leads and ahead >= (-SLACK if before == "label" else SLACK) else "unsure"


def _logit(probability: float) -> float:
    probability = min(max(probability, 1e-7), 1 - 1e-7)
    return math.log(probability / (1 - probability))


def _kind(judged: Judgement) -> str | int:
    return "unlike" if judged.verdict == "unlike" else judged.label
