"""Photos whose label is probably wrong, and classes that look alike: what models say of photos they have not seen.

Confident learning: Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
arXiv:1911.00068.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from vgg_flax.data.split import assign_folds
from vgg_flax.training import regression

FOLDS = 5
CONFIDENCE = 0.75  # of the mean confidence of a class: 1 as in the paper misses up to 4 of 10 wrong labels
LEAST_PHOTOS = 10  # of a class: below, no model knows it
ALIKE, LEAST_ALIKE = 0.05, 3  # share and number of the photos of two classes that are taken for the other one


class Suspect(NamedTuple):
    """A photo, what its label should probably be, and the probabilities of both."""

    row: int
    suggested: int
    probability: float
    given: float


class Alike(NamedTuple):
    """Two classes, how many photos of the first are taken for the second and the other way round, and the share."""

    first: int
    second: int
    first_as_second: int
    second_as_first: int
    share: float


def out_of_fold(
    features: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: int,
    seed: int = 0,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """Probabilities of every photo by a regression without its fold: float64 `[n, classes]`.

    Fitted twice: photos that the first models suspect do not teach the second ones, which therefore suspect more
    surely.

    Args:
      features: float32 `[n, columns]`.
      labels: int `[n]`, below `classes`.
      groups: str `[n]`; photos of a group, such as copies, share a fold.
    """
    folds = assign_folds(labels, groups, FOLDS, seed)
    everything = {"all": np.arange(features.shape[1])}
    best = regression.choose(features, labels, folds, everything, classes, check=check)[0]
    found = regression.fit(features, labels, folds, best.strength, classes, check=check)
    logits = found.out_of_fold
    doubtful = np.zeros(len(labels), bool)
    doubtful[[one.row for one in suspects(softmax(logits / best.temperature, axis=1), labels)]] = True
    if doubtful.any():
        sure = ~doubtful
        found = regression.fit(features[sure], labels[sure], folds[sure], best.strength, classes, check=check)
        logits = (features - found.mean) / found.std @ found.kernel + found.bias
        logits[sure] = found.out_of_fold
    return softmax(logits.astype(np.float64) / best.temperature, axis=1)


def suspects(probabilities: np.ndarray, labels: np.ndarray) -> list[Suspect]:
    """Photos that another class claims with confidence, the surest first.

    A class claims a photo when it is its most probable class, and nearly as probable as this class is on average for
    photos that bear its label. Classes of few photos neither claim nor are claimed from.

    Models that are not half way from guessing to always right know too little to doubt a label: nothing is found then.

    Args:
      probabilities: `[n, classes]`, out of fold.
      labels: int `[n]`.
    """
    if not knows(probabilities, labels):
        return []
    rows, classes = np.arange(len(labels)), probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    own, best = probabilities[rows, labels], probabilities.argmax(1)
    mean = np.bincount(labels, own, classes) / np.maximum(counts, 1)
    known = counts >= LEAST_PHOTOS
    claimed = (best != labels) & (probabilities[rows, best] >= CONFIDENCE * mean[best]) & known[best] & known[labels]
    found = [Suspect(int(i), int(best[i]), float(probabilities[i, best[i]]), float(own[i])) for i in rows[claimed]]
    return sorted(found, key=lambda one: (one.given - one.probability, one.row))


def knows(probabilities: np.ndarray, labels: np.ndarray) -> bool:
    """Whether models are at least half way from always answering the largest class to always right."""
    guessing = np.bincount(labels).max() / len(labels)
    return bool((probabilities.argmax(1) == labels).mean() >= (1 + guessing) / 2)


def alike(probabilities: np.ndarray, labels: np.ndarray) -> list[Alike]:
    """Pairs of classes that are often taken for each other, the worst first. Arguments as for `suspects`."""
    classes = probabilities.shape[1]
    taken = np.zeros((classes, classes), int)
    np.add.at(taken, (labels, probabilities.argmax(1)), 1)
    counts = taken.sum(1)
    found = []
    for i in range(classes):
        for j in range(i + 1, classes):
            wrong = int(taken[i, j] + taken[j, i])
            share = wrong / max(1, counts[i] + counts[j])
            if wrong >= LEAST_ALIKE and share >= ALIKE:
                found.append(Alike(i, j, int(taken[i, j]), int(taken[j, i]), float(share)))
    return sorted(found, key=lambda one: (-one.share, one.first, one.second))
