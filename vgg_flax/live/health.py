"""What of a picture makes its label doubtful."""

from __future__ import annotations

import math

import numpy as np

DARK = 40  # of 255: in a picture whose 99th percentile lies below, a sensor's noise is most of what is left


def hint(image: np.ndarray) -> str | None:
    """In a few words what is wrong with uint8 BGR `[height, width, 3]`; None when nothing is."""
    sample = image[:: max(1, image.shape[0] // 64), :: max(1, image.shape[1] // 64)]
    return "too dark" if np.percentile(sample, 99) < DARK else None


class ColourCheck:
    """Whether red and blue come in the wrong order, as from some capture cards and hand-written pipelines.

    A picture is nearer to the training photos with its colours as they are than with red and blue swapped: of test
    photos of three sets, 80 each, this held for all faces and hand signs and for 70 of 80 cats and dogs. So a few
    pictures are looked at both ways; the mean of their ratios decides, and then no more are.
    """

    PICTURES, EVERY = 8, 1.0  # how many, and seconds between them
    MORE = 0.05  # mean logarithm of the ratio from which on it is said

    def __init__(self) -> None:
        self._ratios: list[float] = []
        self._due = 0.0

    def wants(self, now: float) -> bool:
        """Whether a picture should be looked at both ways at `now`, in seconds."""
        return len(self._ratios) < self.PICTURES and now >= self._due

    def add(self, plain: float | None, swapped: float | None, now: float) -> None:
        """The familiarity of a picture as it came and with red and blue swapped; strangers say nothing of colours."""
        self._due = now + self.EVERY
        if plain and swapped and max(plain, swapped) > 1:
            self._ratios.append(math.log(swapped / plain))

    @property
    def swapped(self) -> bool:
        """Whether enough pictures were looked at and say so."""
        return len(self._ratios) == self.PICTURES and sum(self._ratios) > self.MORE * self.PICTURES
