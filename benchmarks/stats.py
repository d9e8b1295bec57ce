"""What a series of interleaved rounds says, and how sure it is."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
CANARY_LIMIT = 0.15  # a round is disturbed when its canary ran so far off the median


@dataclasses.dataclass(frozen=True)
class Ratio:
    """The median of per-round ratios and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def times_faster(ours: Sequence[float], theirs: Sequence[float], seed: int = 0) -> Ratio:
    """How many times as long they take as we do, round by round: what disturbs both in a round cancels out.

    Args:
      ours, theirs: seconds, one for each round, in the same order.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} and {len(theirs)} rounds: expected as many of both, and at least one")
    ratios = np.asarray(theirs, float) / np.asarray(ours, float)
    drawn = np.random.default_rng(seed).choice(ratios, (RESAMPLES, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return Ratio(float(np.median(ratios)), float(low), float(high), len(ratios))


def disturbed(canaries: Sequence[Sequence[float]], limit: float = CANARY_LIMIT) -> list[bool]:
    """Which rounds had a canary more than `limit` off the median of all.

    Args:
      canaries: for each round the seconds of the canaries that ran in it.
    """
    middle = statistics.median(second for one in canaries for second in one)
    return [any(abs(second / middle - 1) > limit for second in one) for one in canaries]


def kept_rounds(canaries: Sequence[Sequence[float]]) -> list[int]:
    """The undisturbed rounds; on a machine so busy that they are fewer than half, all of them."""
    calm = [i for i, bad in enumerate(disturbed(canaries)) if not bad]
    return calm if 2 * len(calm) >= len(canaries) else list(range(len(canaries)))
