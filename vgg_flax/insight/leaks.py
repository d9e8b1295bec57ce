"""Leaks: what gives a photo's class away without anybody looking at what it shows.

A model learns whatever separates the classes. Where the format, the size, the brightness, the border or the camera
does, it may learn that, and fail on photos from elsewhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from vgg_flax.data.split import assign_folds
from vgg_flax.insight.files import File

FOLDS = 5
BORDER, SEGMENTS = 3, 8  # per cent of the side; places along each side whose colours are averaged
SIGNIFICANT = 0.001  # how seldom guessing would be right so often
LEAST_GAIN = 0.05  # of the accuracy over guessing: less helps no model, however surely it is measured
STRONG = 0.7  # of the way from guessing to always right
LEAST_PHOTOS = 20  # below, nothing is significant
CHUNK = 256  # pictures that are read at a time


@dataclasses.dataclass(frozen=True)
class Clue:
    """How well something that is not the photo's subject tells its class.

    Attributes:
      name: such as `format`.
      accuracy: cross-validated, of all photos.
      baseline: share of the largest class, which guessing reaches.
      p_value: of guessing being right so often.
      example: what goes with which class, in words; "" where there is no short way to say it.
    """

    name: str
    accuracy: float
    baseline: float
    p_value: float
    example: str = ""

    @property
    def gain(self) -> float:
        """How far it leads from guessing, 0, to always right, 1."""
        return (self.accuracy - self.baseline) / max(1e-9, 1 - self.baseline)

    @property
    def tells(self) -> bool:
        """Whether it is significantly better than guessing, and by an amount that matters."""
        return self.p_value < SIGNIFICANT and self.accuracy - self.baseline >= LEAST_GAIN

    @property
    def strong(self) -> bool:
        """Whether it gives the class away."""
        return self.tells and self.gain >= STRONG


def clues(
    files: Sequence[File], images: Any, labels: np.ndarray, groups: np.ndarray, classes: Sequence[str]
) -> list[Clue]:
    """What tells the class, the best first; what tells nothing included.

    Args:
      files: `[n]`.
      images: uint8 RGB `[n, size, size, 3]`, read when indexed.
      labels: int `[n]`.
      groups: str `[n]`; copies share a fold.
      classes: names.
    """
    if len(labels) < LEAST_PHOTOS or len(np.unique(labels)) < 2:
        return []
    folds = assign_folds(labels, groups, FOLDS, 0)
    light, border = _pixels(images, len(labels))
    sides = np.array([(one.header.width, one.header.height) for one in files], np.float64)
    baseline = float(np.bincount(labels).max() / len(labels))
    found = [
        _of_words("format", [one.header.format for one in files], labels, folds, classes),
        _of_words("camera", [one.header.camera for one in files], labels, folds, classes),
        _of_numbers("file size", np.array([[one.bytes] for one in files]), labels, folds),
        _of_numbers("dimensions", np.column_stack([sides, sides[:, 0] / np.maximum(1, sides[:, 1])]), labels, folds),
        _of_numbers("brightness", light, labels, folds),
        _of_border(border, labels, folds),
    ]
    tested = [_tested(name, right, baseline, example) for name, right, example in filter(None, found)]
    return sorted(tested, key=lambda clue: (-clue.gain, clue.name))


def _tested(name: str, right: np.ndarray, baseline: float, example: str) -> Clue:
    from scipy.stats import binomtest

    p = binomtest(int(right.sum()), len(right), baseline, alternative="greater").pvalue
    return Clue(name, float(right.mean()), baseline, float(p), example)


Found = tuple[str, np.ndarray, str]


def _of_words(
    name: str, words: Sequence[str], labels: np.ndarray, folds: np.ndarray, classes: Sequence[str]
) -> Found | None:
    """Each word answers with the class that it goes with most often in the other folds."""
    values, codes = np.unique(np.array(words, str), return_inverse=True)
    if len(values) < 2:
        return None
    counts = np.zeros((FOLDS, len(values), len(classes)))
    np.add.at(counts, (folds, codes, labels), 1)
    others = counts.sum(0) - counts
    unseen = others.sum(2, keepdims=True) == 0
    answers = np.where(unseen, others.sum(1, keepdims=True), others).argmax(2)
    return name, answers[folds, codes] == labels, _example(values, codes, labels, classes)


def _example(values: np.ndarray, codes: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> str:
    """The word that says most about the class, such as "PNG: 97 % are cat"."""
    shares = np.bincount(labels, minlength=len(classes)) / len(labels)
    best, text = 0.0, ""
    for code, value in enumerate(values):
        mine = np.bincount(labels[codes == code], minlength=len(classes))
        label = int((mine / mine.sum() - shares).argmax())
        weight = mine.sum() * (mine[label] / mine.sum() - shares[label])
        if weight > best:
            best, text = weight, f"{value or 'none named'}: {mine[label] / mine.sum():.0%} are {classes[label]}"
    return text


def _of_numbers(name: str, numbers: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> Found | None:
    """A small decision tree, which finds any few thresholds."""
    from sklearn.tree import DecisionTreeClassifier

    if (numbers == numbers[0]).all():
        return None
    least = max(5, len(labels) // 100)
    return (
        name,
        _right(DecisionTreeClassifier(max_depth=4, min_samples_leaf=least, random_state=0), numbers, labels, folds),
        "",
    )


def _of_border(border: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> Found:
    """Trees, which find a frame of one colour as well as one that some photos lack."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=0, n_jobs=1)
    return "border", _right(forest, border, labels, folds), ""


def _right(model: Any, numbers: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Whether each photo's class is told by a model that was fitted without its fold: bool `[n]`."""
    answers = np.empty_like(labels)
    for fold in np.unique(folds):
        teaches, asked = folds != fold, folds == fold
        answers[asked] = model.fit(numbers[teaches], labels[teaches]).predict(numbers[asked])
    return answers == labels


def _pixels(images: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(Mean, deviation and darkest and lightest tenth of the light `[n, 4]`, colours of the border `[n, m]`)."""
    light, border = [], []
    for start in range(0, count, CHUNK):
        for image in images[start : start + CHUNK]:
            grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
            light.append([grey.mean(), grey.std(), *np.quantile(grey, (0.1, 0.9))])
            border.append(_border(image))
    return np.array(light), np.array(border)


def _border(image: np.ndarray) -> np.ndarray:
    """Of the outermost strip of each side the colours, in segments, and how they vary; of its outermost line as well.

    A frame of one colour has a line that does not vary, however thin it is. float32 `[m]`.
    """
    deep = max(1, round(image.shape[0] * BORDER / 100))
    turned = image.swapaxes(0, 1)
    strips = [side[:deep].astype(np.float32) for side in (image, image[::-1], turned, turned[::-1])]  # outermost first
    found = []
    for strip in strips:
        pieces = np.array_split(strip, SEGMENTS, axis=1)
        found += [value for piece in pieces for value in piece.mean((0, 1))]
        found += [
            *strip[0].mean(0),
            *strip[0].std(0),
            *strip.std((0, 1)),
            *np.abs(np.diff(strip, axis=1)).mean((0, 1)),
        ]
    return np.array(found, np.float32)
