"""Honest numbers from predictions: nothing here knows about the model."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import log_softmax

from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictions import Predictions

BINS = 15  # of the largest probability
BOOTSTRAPS = 1000
FEW = 5  # test pictures of a class: below, its figures are chance
SHOWN = 5  # classes in a sentence


def evaluate_run(predictions: Predictions, judge: Judge) -> dict[str, Any]:
    """The metrics of a run: {"test": ..., "val": ...}, of out-of-fold validation pictures also by fold."""
    val = predictions.validation()
    found = {"test": evaluate(predictions.select("test"), judge), "val": evaluate(val, judge)}
    if len(np.unique(val.folds)) > 1:
        found["val"]["folds"] = by_fold(val)
    return found


def evaluate(predictions: Predictions, judge: Judge) -> dict[str, Any]:
    """Metrics of some pictures, JSON types only; the temperature changes probabilities, never a label.

    Intervals are at 95 %: of shares Wilson's, of the others percentiles of BOOTSTRAPS seeded resamples of the pictures.
    """
    if not len(predictions):
        return supports(predictions)
    labels, predicted = predictions.labels, predictions.logits.argmax(-1)
    count, correct = len(labels), int((predicted == labels).sum())
    classes, matrix = len(predictions.classes), confusion(predictions)
    per_class = _per_class(predictions, matrix)
    scores = _resampled(predictions, judge)
    return {
        "accuracy": correct / count,
        "accuracy_95": wilson(correct, count),
        "majority_baseline": float(np.bincount(labels).max() / count),
        "count": count,
        **scores,
        "top_k": {str(k): float((_ranks(predictions) < k).mean()) for k in (2, 3, 5) if k < classes},
        "roc_auc": _mean(per_class, "roc_auc"),
        "average_precision": _mean(per_class, "average_precision"),
        **_calibration(predictions, judge),
        "judged": _judged(predictions, judge),
        "confusion_matrix": matrix.tolist(),
        "per_class": per_class,
    }


def confusion(predictions: Predictions) -> np.ndarray:
    """Counts `[classes, classes]`: rows are the truth, columns the answer."""
    classes = len(predictions.classes)
    cells = predictions.labels.astype(np.int64) * classes + predictions.logits.argmax(-1)
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def wilson(successes: int, count: int) -> list[float]:
    """95 % interval of a share: Wilson, "Probable Inference", JASA 22 (1927)."""
    from scipy.stats import binomtest

    interval = binomtest(successes, count).proportion_ci(0.95, method="wilson")
    return [float(interval.low), float(interval.high)]


def _per_class(predictions: Predictions, matrix: np.ndarray) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 as scikit-learn's, areas of one class against the rest; None where undefined."""
    from scipy.special import softmax
    from sklearn.metrics import average_precision_score, roc_auc_score

    scores, found = softmax(predictions.logits.astype(np.float64), -1), {}
    for index, name in enumerate(predictions.classes):
        right, called, support = (int(n) for n in (matrix[index, index], matrix[:, index].sum(), matrix[index].sum()))
        truth, both = predictions.labels == index, 0 < support < len(predictions)
        found[str(name)] = {
            "precision": right / called if called else 0.0,
            "precision_95": wilson(right, called) if called else None,
            "recall": right / support if support else 0.0,
            "recall_95": wilson(right, support) if support else None,
            "f1": 2 * right / (called + support) if called + support else 0.0,
            "support": support,
            "roc_auc": float(roc_auc_score(truth, scores[:, index])) if both else None,
            "average_precision": float(average_precision_score(truth, scores[:, index])) if both else None,
        }
    return found


def _mean(per_class: dict[str, dict[str, Any]], metric: str) -> float | None:
    """Over the classes where it is defined."""
    values = [one[metric] for one in per_class.values() if one[metric] is not None]
    return float(np.mean(values)) if values else None


def _resampled(predictions: Predictions, judge: Judge) -> dict[str, Any]:
    """Balanced accuracy, macro F1 (of the classes that are there), loss and Brier score, each with its interval."""
    labels, predicted = predictions.labels, predictions.logits.argmax(-1)
    n, classes = len(labels), len(predictions.classes)
    losses = -log_softmax(predictions.logits.astype(np.float64) / judge.temperature, -1)[np.arange(n), labels]
    briers = ((judge.probabilities(predictions.logits) - np.eye(classes)[labels]) ** 2).sum(1)
    names = ("balanced_accuracy", "macro_f1", "loss", "brier")

    def of(rows: np.ndarray) -> tuple[float, ...]:
        here, called = labels[rows], predicted[rows]
        right = np.bincount(here[here == called], minlength=classes)
        support, calls = (np.bincount(some, minlength=classes) for some in (here, called))
        there = support > 0
        recall, f1 = right[there] / support[there], 2 * right[there] / (support + calls)[there]
        return float(recall.mean()), float(f1.mean()), float(losses[rows].mean()), float(briers[rows].mean())

    rng = np.random.default_rng(0)
    samples = [of(rng.integers(n, size=n)) for _ in range(BOOTSTRAPS)]
    low, high = np.percentile(samples, (2.5, 97.5), axis=0)
    values = of(np.arange(n))
    found: dict[str, Any] = {}
    for i, name in enumerate(names):
        found |= {name: values[i], f"{name}_95": [float(low[i]), float(high[i])]}
    return found


def _ranks(predictions: Predictions) -> np.ndarray:
    """How many classes are more probable than the true one: int `[n]`."""
    truth = predictions.logits[np.arange(len(predictions)), predictions.labels]
    return (predictions.logits > truth[:, None]).sum(1)


def _calibration(predictions: Predictions, judge: Judge) -> dict[str, Any]:
    before, after = Judge().probabilities(predictions.logits), judge.probabilities(predictions.logits)
    labels = predictions.labels
    return {
        "ece": calibration_error(after, labels),
        "ece_before": calibration_error(before, labels),
        "reliability": reliability(after, labels),
    }


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Expected calibration error over BINS equal bins of the largest probability.

    Args:
      probabilities: `[n, classes]`.
      labels: int `[n]`.

    Guo et al., "On Calibration of Modern Neural Networks", arXiv:1706.04599, section 2.
    """
    bins = reliability(probabilities, labels)
    return sum(one["count"] * abs(one["accuracy"] - one["confidence"]) for one in bins) / len(labels)


def reliability(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Of each bin that is not empty: its lower edge, count, mean confidence and accuracy. Arguments as above."""
    sure, right = probabilities.max(1).astype(np.float64), probabilities.argmax(1) == labels
    bins = np.minimum((sure * BINS).astype(int), BINS - 1)
    return [
        {
            "from": i / BINS,
            "count": int(here.sum()),
            "confidence": float(sure[here].mean()),
            "accuracy": float(right[here].mean()),
        }
        for i in range(BINS)
        if (here := bins == i).any()
    ]


def _judged(predictions: Predictions, judge: Judge) -> dict[str, Any]:
    """How often the judge lets a plain label through, and how often that is right."""
    verdicts = judge.verdicts(judge.probabilities(predictions.logits), predictions.familiarity)
    right = predictions.logits.argmax(-1) == predictions.labels
    plain = verdicts == "label"
    count, correct = int(plain.sum()), int(right[plain].sum())
    return {
        "coverage": count / len(predictions),
        "precision": correct / count if count else None,
        "precision_95": wilson(correct, count) if count else None,
        "unsure": int((verdicts == "unsure").sum()),
        "unlike": int((verdicts == "unlike").sum()),
    }


def by_fold(predictions: Predictions) -> dict[str, Any]:
    """Accuracy of each fold's pictures, answered by the model without them; mean and standard deviation."""
    right = predictions.logits.argmax(-1) == predictions.labels
    shares = [float(right[predictions.folds == fold].mean()) for fold in np.unique(predictions.folds)]
    return {"accuracy": shares, "mean": float(np.mean(shares)), "std": float(np.std(shares, ddof=1))}


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
