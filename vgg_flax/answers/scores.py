"""Scores of logits that training itself needs: the loss, and the temperature that makes it least."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_softmax


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log-likelihood, in nats. logits `[n, classes]`, labels int `[n]`."""
    likelihood = log_softmax(logits.astype(np.float64), axis=-1)[np.arange(len(labels)), labels]
    return float(np.maximum(0.0, -likelihood.mean()))  # not max(), which would turn NaN into 0


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of pictures whose largest logit is the label's. logits `[n, classes]`, labels int `[n]`."""
    return float((logits.argmax(-1) == labels).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature in [1, 10] that makes the labels likeliest, for pictures that the model has not seen.

    Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 4.2. Never below 1: on a
    validation set without a single mistake the likelihood would have it shrink to nothing.
    """
    from scipy.optimize import minimize_scalar

    found: Any = minimize_scalar(
        lambda log_t: cross_entropy(logits / np.exp(log_t), labels), bounds=(0.0, np.log(10.0)), method="bounded"
    )
    at_one, at_best = cross_entropy(logits, labels), float(found.fun)
    return float(np.exp(found.x)) if at_best < at_one else 1.0
