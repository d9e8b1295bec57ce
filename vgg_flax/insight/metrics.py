"""Honest numbers from predictions: nothing here knows about the model."""

from __future__ import annotations

from typing import Any

import numpy as np

from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictions import Predictions
from vgg_flax.answers.scores import cross_entropy

FEW = 5  # test pictures of a class: below, its figures are chance
SHOWN = 5  # classes in a sentence


def evaluate_run(predictions: Predictions, judge: Judge) -> dict[str, Any]:
    """The metrics of a run: {"test": ..., "val": ...}."""
    return {
        "test": evaluate(predictions.select("test"), judge),
        "val": evaluate(predictions.validation(), judge),
    }


def evaluate(predictions: Predictions, judge: Judge) -> dict[str, Any]:
    """Metrics of some pictures, JSON types only; the temperature changes the loss, never a label."""
    from scipy.stats import binomtest  # these two take longer to import than an epoch to run
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    labels, predicted = predictions.labels, predictions.logits.argmax(-1)
    indices = np.arange(len(predictions.classes))
    count, correct = len(labels), int((predicted == labels).sum())
    if not count:
        return supports(predictions)
    interval = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    table: Any = precision_recall_fscore_support(labels, predicted, labels=indices, zero_division=0)  # type: ignore
    columns = dict(zip(("precision", "recall", "f1", "support"), table, strict=True))
    return {
        "accuracy": correct / count,
        "accuracy_95": [float(interval.low), float(interval.high)],
        "majority_baseline": float(np.bincount(labels).max() / count),
        "loss": cross_entropy(predictions.logits / judge.temperature, labels),
        "count": count,
        "macro_f1": float(np.mean(columns["f1"][columns["support"] > 0])),  # of the classes that are there
        "confusion_matrix": confusion_matrix(labels, predicted, labels=indices).tolist(),
        "per_class": {
            str(name): {metric: column[i].item() for metric, column in columns.items()}
            for i, name in enumerate(predictions.classes)
        },
    }


def supports(predictions: Predictions) -> dict[str, Any]:
    """How many pictures there are, as in `evaluate`: where nothing is measured."""
    counts = np.bincount(predictions.labels, minlength=len(predictions.classes))
    per_class = {str(name): {"support": int(count)} for name, count in zip(predictions.classes, counts, strict=True)}
    return {"count": len(predictions), "per_class": per_class}


def mistakes(predictions: Predictions, judge: Judge) -> list[tuple[int, int, float]]:
    """(row, predicted class, its probability) of every wrong prediction, the most confident first."""
    probabilities = judge.probabilities(predictions.logits)
    predicted = predictions.logits.argmax(-1)
    wrong = np.flatnonzero(predicted != predictions.labels)
    rows = [(int(i), int(predicted[i]), float(probabilities[i, predicted[i]])) for i in wrong]
    return sorted(rows, key=lambda row: (-row[2], row[0]))


def warnings(predictions: Predictions, test: dict[str, Any]) -> list[str]:
    """What a person must know before believing the test accuracy: a sentence each, none where all is well.

    Args:
      test: as `evaluate` gives it of the test pictures.
    """
    found = []
    for what, some in (("validation", predictions.validation()), ("test", predictions.select("test"))):
        if len(some) > 1 and len(np.unique(some.logits.argmax(-1))) == 1:
            label = str(predictions.classes[some.logits[0].argmax()])
            found.append(
                f"the model calls every {what} picture {label!r}: add photos of the other classes; for a head trained "
                "in epochs, try a lower --lr as well."
            )
            break
    if test["count"] and test["accuracy"] <= test["majority_baseline"] and test["accuracy"] < 1:
        how = "lower than" if test["accuracy"] < test["majority_baseline"] else "no better than"
        largest = max(test["per_class"], key=lambda name: test["per_class"][name]["support"])
        found.append(
            f"test accuracy {test['accuracy']:.1%} is {how} the {test['majority_baseline']:.1%} of always answering "
            f"{largest!r}: the model has learned nothing that helps. It needs more photos of the small classes."
        )
    few = {name: one["support"] for name, one in test["per_class"].items() if one["support"] < FEW}
    if few:
        some = ", ".join(f"{name!r} ({count})" for name, count in list(few.items())[:SHOWN])
        more = f" and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
        found.append(
            f"fewer than {FEW} test pictures of {some}{more}: figures of these classes say little. Add photos."
        )
    return found
