"""Honest numbers from predictions: nothing here knows about the model."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax


def evaluate(logits: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], temperature: float) -> dict[str, Any]:
    """Metrics of one split, JSON types only.

    Args:
      logits: `[n, classes]`.
      labels: int `[n]`.
      temperature: the logits are divided by it, as in prediction; changes the loss, never a label.
    """
    from scipy.stats import binomtest  # these two take longer to import than an epoch to run
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    predicted = logits.argmax(-1)
    indices = np.arange(len(classes))
    count, correct = len(labels), int((predicted == labels).sum())
    interval = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    table: Any = precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)  # type: ignore
    precision, recall, f1, support = table
    return {
        "accuracy": correct / count,
        "accuracy_95": [float(interval.low), float(interval.high)],
        "majority_baseline": float(np.bincount(labels).max() / count),
        "loss": cross_entropy(logits / temperature, labels),
        "count": count,
        "macro_f1": float(np.mean(f1)),
        "confusion_matrix": confusion_matrix(labels, predicted, labels=indices).tolist(),
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(classes)
        },
    }


def supports(labels: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """How many pictures there are, as in `evaluate`: for a split that nothing is measured on."""
    counts = np.bincount(labels, minlength=len(classes))
    return {"count": len(labels), "per_class": {name: {"support": int(counts[i])} for i, name in enumerate(classes)}}


def mistakes(logits: np.ndarray, labels: np.ndarray, temperature: float) -> list[tuple[int, int, float]]:
    """(row, predicted class, its probability) of every wrong prediction, the most confident first."""
    probabilities = softmax(logits.astype(np.float64) / temperature, axis=-1)
    predicted = probabilities.argmax(-1)
    wrong = np.flatnonzero(predicted != labels)
    rows = [(int(i), int(predicted[i]), float(probabilities[i, predicted[i]])) for i in wrong]
    return sorted(rows, key=lambda row: (-row[2], row[0]))
