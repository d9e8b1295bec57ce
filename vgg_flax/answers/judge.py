"""What an answer is worth: a probability that can be believed, and when to say "not sure" or "unlike the photos"."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.special import softmax

from vgg_flax.answers.scores import fit_temperature

Verdict = Literal["label", "unsure", "unlike"]

NEIGHBOURS = 5  # a picture is as far from the training photos as from the 5th nearest of them
OUTLIERS = 0.99  # so many of the training photos are nearer to the others than the threshold
MOST_REFERENCES = 20_000
COVERAGE = 0.95  # of the candidates
MOST_FAMILIAR = 10.0  # familiarity is threshold / distance, and a copy has no distance
BLOCK_BYTES = 64 * 2**20  # of distances that are in memory at a time


@dataclasses.dataclass(frozen=True, eq=False)
class References:
    """The training photos that a new picture is compared with.

    Attributes:
      features: float16 `[m, channels]`, averages of block 5, each row of length 1, neither shifted nor scaled.
      names: `[m]` of the photos.
    """

    features: np.ndarray
    names: tuple[str, ...]

    def nearest(self, averages: np.ndarray, own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The 5 nearest references of each picture.

        Args:
          averages, own: as in `Judge.familiarity`.

        Returns:
          (squared distance from the 5th: float64 `[n]`, numbers of the 5, nearest first: int64 `[n, 5]`).
        """
        rows, distances = nearest_rows(unit_rows(averages), self._float32, NEIGHBOURS, own)
        return distances[:, -1].astype(np.float64), rows

    @functools.cached_property
    def _float32(self) -> np.ndarray:
        return unit_rows(self.features.astype(np.float32))  # again of length 1 after rounding

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, References):
            return NotImplemented
        return self.names == other.names and np.array_equal(self.features, other.features)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What is said of one picture.

    Attributes:
      verdict: `unlike` the training photos, `unsure` of the label, or a plain `label`.
      label: the index of the most probable class, whatever the verdict; over time, the one that was it until another
        clearly is.
      probabilities: float32 `[classes]`.
      candidates: the classes that can't be ruled out, most probable first; the label is always among them.
      familiarity: the threshold over the distance to the 5th nearest training photo, at most 10: below 1 the picture
        is farther away than 99 % of the training photos are from each other. None where none are known.
      nearest: the 5 nearest training photos, indices into the references, nearest first.
    """

    verdict: Verdict
    label: int
    probabilities: np.ndarray
    candidates: tuple[int, ...]
    familiarity: float | None
    nearest: tuple[int, ...]

    @property
    def probability(self) -> float:
        """Of the label."""
        return float(self.probabilities[self.label])


@dataclasses.dataclass(frozen=True)
class Judge:
    """Turns logits and features into verdicts. Stored in the bundle.

    Attributes:
      temperature: logits are divided by it before the softmax; 1 where nothing was measured.
      min_precision: of the answers given as a plain label, so many should be right.
      sure: the least probability of a plain label; 0 where nothing was measured.
      reached: whether answers that probable were right so often, out of fold.
      candidate: the least probability of a class that can't be ruled out at 95 %; 1 where nothing was measured.
      distance: squared distance from the training photos above which a picture is unlike them; None where unknown.
      references: the training photos; None where unknown.
      seen: SHA-256 of every picture that the model has learned from, 32 bytes each, one after the other.
    """

    temperature: float = 1.0
    min_precision: float = 0.95
    sure: float = 0.0
    reached: bool = True
    candidate: float = 1.0
    distance: float | None = None
    references: References | None = None
    seen: bytes = b""

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Logits `[n, classes]` -> float32 `[n, classes]`; each row sums to 1."""
        return softmax(logits.astype(np.float64) / self.temperature, axis=-1).astype(np.float32)

    def judge(self, logits: np.ndarray, averages: np.ndarray | None = None) -> list[Judgement]:
        """What is said of each picture.

        Args:
          logits: float32 `[n, classes]`.
          averages: float32 `[n, channels]`, of block 5; None leaves familiarity out.
        """
        probabilities = self.probabilities(logits)
        familiarity, nearest = np.full(len(logits), np.nan), np.zeros((len(logits), 0), np.int64)
        if self.references is not None and averages is not None:
            familiarity, nearest = self.familiarity(averages)
        verdicts = self.verdicts(probabilities, familiarity)
        known = [None if np.isnan(one) else float(one) for one in familiarity]
        rows = zip(verdicts.tolist(), probabilities, known, map(tuple, nearest.tolist()), strict=True)
        return [self.judgement(*row) for row in rows]

    def verdicts(self, probabilities: np.ndarray, familiarity: np.ndarray) -> np.ndarray:
        """`label`, `unsure` or `unlike`: str `[n]`.

        Args:
          probabilities: float32 `[n, classes]`.
          familiarity: float `[n]`; NaN where it is unknown.
        """
        sure = np.where(probabilities.max(1) >= self.sure, "label", "unsure")
        return np.where(familiarity < 1, "unlike", sure)

    def familiarity(self, averages: np.ndarray, own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """How like the training photos pictures are.

        Args:
          averages: float32 `[n, channels]`, of block 5.
          own: int `[n]`, the number of the reference that is the picture itself and does not count, or -1.

        Returns:
          (familiarity: float64 `[n]`, see `Judgement`; numbers of the 5 nearest references, nearest first:
          int64 `[n, 5]`).
        """
        assert self.references is not None and self.distance is not None
        far, nearest = self.references.nearest(averages, own)
        return np.minimum(MOST_FAMILIAR, self.distance / np.maximum(far, 1e-12)), nearest

    def judgement(
        self,
        verdict: Verdict,
        probabilities: np.ndarray,
        familiarity: float | None,
        nearest: tuple[int, ...],
        label: int | None = None,
    ) -> Judgement:
        """One picture's, with its candidates; the arguments are its attributes. `label` unset: the most probable."""
        order = np.argsort(-probabilities, kind="stable")
        label = int(order[0]) if label is None else label
        others = (int(c) for c in order if c != label and probabilities[c] >= self.candidate)
        return Judgement(verdict, label, probabilities, (label, *others), familiarity, nearest)

    def without_photos(self) -> Judge:
        """The same, without what it knows of the training photos: for a model that leaves the house."""
        return dataclasses.replace(self, distance=None, references=None, seen=b"")

    def has_seen(self, contents: Sequence[str]) -> np.ndarray:
        """Whether the model has learned from pictures with these contents, SHA-256 in hexadecimal: bool `[n]`."""
        known = {self.seen[start : start + 32] for start in range(0, len(self.seen), 32)}
        return np.array([bytes.fromhex(content) in known for content in contents], bool)


def calibrate(logits: np.ndarray, labels: np.ndarray, min_precision: float, temperature: float | None = None) -> Judge:
    """Temperature and thresholds from answers to pictures that the answering model has not seen.

    Args:
      logits: float32 `[n, classes]`.
      labels: int `[n]`.
      min_precision: see `Judge`.
      temperature: kept as it is; unset: fitted.

    The candidates are split conformal prediction: Sadinle et al., "Least Ambiguous Set-Valued Classifiers with Bounded
    Error Levels", arXiv:1609.00451, with the rank of Angelopoulos and Bates, arXiv:2107.07511, section 1.
    """
    if not len(labels):
        return Judge(min_precision=min_precision)
    judge = Judge(temperature or fit_temperature(logits, labels), min_precision)
    probabilities = judge.probabilities(logits)
    sure, reached = _sure(probabilities.max(1), probabilities.argmax(1) == labels, min_precision)
    of_truth = np.sort(probabilities[np.arange(len(labels)), labels])
    rank = int((len(labels) + 1) * (1 - COVERAGE))  # so many may lie below
    candidate = float(of_truth[rank - 1]) if rank else 0.0
    return dataclasses.replace(judge, sure=sure, reached=reached, candidate=candidate)


def _sure(probabilities: np.ndarray, right: np.ndarray, min_precision: float) -> tuple[float, bool]:
    """(The least probability from which on so many answers are right, whether there is one)."""
    order = np.argsort(-probabilities, kind="stable")
    sorted_, precision = probabilities[order], np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    last = np.append(sorted_[1:] < sorted_[:-1], True)  # equal probabilities stand or fall together
    good = np.flatnonzero(last & (precision >= min_precision))
    return (float(sorted_[good[-1]]), True) if len(good) else (1.0, False)


def with_references(judge: Judge, averages: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> Judge:
    """The same, knowing the training photos; with fewer than 6 of them there is no 5th nearest, and it stays unknown.

    Args:
      averages: float32 `[n, channels]`, of block 5.
      labels: int `[n]`; of more than MOST_REFERENCES photos so many are kept, evenly by class.
      names: `[n]`.
    """
    kept = _evenly(labels, MOST_REFERENCES)
    if len(kept) <= NEIGHBOURS:
        return judge
    references = References(unit_rows(averages[kept]).astype(np.float16), tuple(str(names[i]) for i in kept))
    far, _ = references.nearest(averages[kept], np.arange(len(kept)))
    return dataclasses.replace(judge, distance=max(float(np.quantile(far, OUTLIERS)), 1e-12), references=references)


def _evenly(labels: np.ndarray, most: int) -> np.ndarray:
    """At most so many rows, as evenly by class as there are photos: int64 `[m]`, ascending."""
    if len(labels) <= most:
        return np.arange(len(labels))
    place = np.empty(len(labels), np.int64)  # of a photo among those of its class
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        place[rows] = np.arange(len(rows))
    return np.sort(np.argsort(place, kind="stable")[:most])


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Each row of length 1: float32 `[n, channels]`."""
    rows = rows.astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def nearest_rows(
    units: np.ndarray, searched: np.ndarray, count: int, own: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows most alike to each, in blocks: memory does not grow with the product of both.

    Args:
      units, searched: float32 `[n, channels]` and `[m, channels]`, each row of length 1.
      count: how many; at most m, without itself m - 1.
      own: int `[n]`, the searched row that is the picture itself and does not count, or -1.

    Returns:
      (numbers of the searched rows, nearest first: int64 `[n, count]`, squared distances: float32 `[n, count]`).
    """
    rows, distances = np.empty((len(units), count), np.int64), np.empty((len(units), count), np.float32)
    step = max(1, BLOCK_BYTES // (4 * max(1, len(searched))))
    for start in range(0, len(units) if count else 0, step):
        part = slice(start, start + step)
        block = np.maximum(0, 2 - 2 * units[part] @ searched.T)
        if own is not None:
            here = np.flatnonzero(own[part] >= 0)
            block[here, own[part][here]] = np.inf
        some = np.argpartition(block, count - 1, axis=1)[:, :count]
        order = np.take_along_axis(block, some, 1).argsort(1, kind="stable")
        rows[part] = np.take_along_axis(some, order, 1)
        distances[part] = np.take_along_axis(block, rows[part], 1)
    return rows, distances
