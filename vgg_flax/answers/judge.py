"""What a probability of a model is worth."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy.special import softmax


@dataclasses.dataclass(frozen=True)
class Judge:
    """Turns logits into probabilities that can be believed. Stored in the bundle.

    Attributes:
      temperature: logits are divided by it before the softmax; 1 where nothing was measured.
    """

    temperature: float = 1.0

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Logits `[n, classes]` -> float32 `[n, classes]`; each row sums to 1."""
        return softmax(logits.astype(np.float64) / self.temperature, axis=-1).astype(np.float32)
