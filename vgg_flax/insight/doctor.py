"""What is wrong with these photos: every check, from files to features, composed into ranked findings."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vgg_flax.console import counted
from vgg_flax.data.dataset import Dataset
from vgg_flax.data.groups import find_groups
from vgg_flax.insight import copies, labels, leaks, neighbours
from vgg_flax.insight.duplicates import Copies, about_copies
from vgg_flax.insight.files import File
from vgg_flax.insight.findings import FIRST, LOOK, TEACHES, Finding, Findings, ranked
from vgg_flax.network.spec import BackboneSpec, pooled_columns

BLOCKS, POOLS = (4, 5), ("average", "maximum")  # that the quick model reads
IMBALANCE = 3  # times as many photos in the largest class as in the smallest
FEW = 20  # photos of a class: below, neither training nor testing it says much
SHOWN = 3  # names in a sentence


@dataclasses.dataclass(frozen=True)
class Examined:
    """A data set, and what is known of its pictures.

    Attributes:
      dataset: as it was opened.
      files: of all its pictures.
      reasons: {index: why it can't be used}.
      kept: the others, int64 `[n]`.
      images: uint8 RGB `[n, size, size, 3]`, read when indexed by a slice or an array.
      pooled: float32 `[n, m]`, averages and maxima of blocks 3 to 5.
      backbone: that gave them.
      likely: int `[m, 2]`, pairs of places among the kept that a hash calls near-copies.
    """

    dataset: Dataset
    files: Sequence[File]
    reasons: Mapping[int, str]
    kept: np.ndarray
    images: Any
    pooled: np.ndarray
    backbone: BackboneSpec
    likely: np.ndarray

    @property
    def names(self) -> list[str]:
        """Of the kept."""
        return [self.dataset.names[i] for i in self.kept]

    @property
    def labels(self) -> np.ndarray:
        """int32 `[n]` of the kept."""
        return self.dataset.labels[self.kept]

    @property
    def contents(self) -> np.ndarray:
        """str `[n]` of the kept."""
        return np.array([self.files[i].content for i in self.kept], str)

    @property
    def averages(self) -> np.ndarray:
        """float32 `[n, channels]` of block 5."""
        return self.pooled[:, pooled_columns(self.backbone, (5,), ("average",))]


def diagnose(examined: Examined, check: Callable[[], None] = lambda: None) -> Findings:
    """Every check. `check` is called now and then; may raise to stop."""
    same = find_copies(examined, check)
    probabilities = None
    if len(np.unique(examined.labels)) > 1 and len(examined.labels) >= labels.LEAST_PHOTOS:
        features = examined.pooled[:, pooled_columns(examined.backbone, BLOCKS, POOLS)]
        classes = len(examined.dataset.classes)
        probabilities = labels.out_of_fold(features, examined.labels, same.groups, classes, check=check)
    clues = leaks.clues(
        [examined.files[i] for i in examined.kept],
        examined.images,
        examined.labels,
        same.groups,
        examined.dataset.classes,
    )
    check()
    found = [
        _unusable(examined),
        *about_copies(same, examined.dataset, examined.kept),
        *_leaks(clues),
        _outliers(examined, same),
        _imbalance(examined),
    ]
    if probabilities is not None:
        names = examined.names
        found += [
            wrong_labels(names, examined.dataset.classes, probabilities, examined.labels),
            _alike(examined.dataset.classes, probabilities, examined.labels),
        ]
    summary = _summary(examined, probabilities)
    return Findings(examined.dataset.source, summary, _tables(examined, clues), ranked(found, len(examined.files)))


def find_copies(examined: Examined, check: Callable[[], None]) -> Copies:
    """The same bytes, and nearly the same pictures."""
    unique, first, inverse = np.unique(examined.contents, return_index=True, return_inverse=True)
    images = examined.images.only(first) if hasattr(examined.images, "only") else examined.images[first]
    rows, distances = neighbours.nearest(examined.averages[first])
    pairs = copies.near_copies(images, rows, distances, inverse[examined.likely], check)
    ends = first[np.array([pair[:2] for pair in pairs], np.int64).reshape(-1, 2)]
    keys = [key[examined.kept] for key in examined.dataset.keys]
    groups = find_groups(examined.contents, examined.labels, ends, keys).names
    return Copies(unique, first, inverse, tuple(pairs), rows, distances, groups)


def wrong_labels(
    names: Sequence[str], classes: Sequence[str], probabilities: np.ndarray, given: np.ndarray
) -> Finding | None:
    """Suspected wrong labels, ranked.

    Args:
      names: `[n]`.
      probabilities: `[n, classes]`, out of fold.
      given: int `[n]`, the labels.
    """
    found = labels.suspects(probabilities, given)
    if not found:
        return None
    rows = [
        (
            names[one.row],
            classes[given[one.row]],
            classes[one.suggested],
            round(one.given, 4),
            round(one.probability, 4),
        )
        for one in found
    ]
    first = rows[0]
    return Finding(
        "wrong_labels",
        len(rows),
        TEACHES,
        f"{counted(len(rows), 'photo')} with a suspected wrong label: models that have not seen them are sure of "
        f"another class. The surest: {first[0]} is {first[1]} and looks like {first[2]}.",
        "Look at them in this order, and move what is wrong to its class. What is right is hard: add more like it.",
        ("file", "label", "suggested", "probability_of_label", "probability_of_suggested"),
        tuple(rows),
    )


def _unusable(examined: Examined) -> Finding | None:
    dataset = examined.dataset
    rows = [(dataset.names[i], dataset.classes[dataset.labels[i]], why) for i, why in sorted(examined.reasons.items())]
    rows += [(one.name, one.label, one.reason) for one in dataset.left_out]
    if not rows:
        return None
    empty = [name for label, name in enumerate(dataset.classes) if label not in examined.labels]
    reason, count = collections.Counter(row[2] for row in rows).most_common(1)[0]
    whole = f" No photo of {', '.join(map(repr, empty))} can be used." if empty else ""
    return Finding(
        "damaged",
        len(rows),
        FIRST if empty else LOOK,
        f"{counted(len(rows), 'file')} that can't be used; the commonest reason: {reason} ({count}).{whole}",
        "Replace or remove them.",
        ("file", "label", "reason"),
        tuple(rows),
    )


def _leaks(clues: Sequence[leaks.Clue]) -> list[Finding]:
    columns = ("clue", "accuracy", "guessing", "p_value", "example")
    found = []
    for kind, urgency, some, advice in (
        (
            "leaks",
            FIRST,
            [clue for clue in clues if clue.strong],
            "A model may learn this instead of the subject. Collect all classes in the same way, or convert them.",
        ),
        (
            "hints",
            LOOK,
            [clue for clue in clues if clue.tells and not clue.strong],
            "That may be the subject's surroundings. Test on photos from elsewhere before you trust the result.",
        ),
    ):
        if some:
            rows = tuple(
                (one.name, round(one.accuracy, 4), round(one.baseline, 4), one.p_value, one.example) for one in some
            )
            found.append(Finding(kind, len(rows), urgency, _told(some), advice, columns, rows))
    return found


def _told(some: Sequence[leaks.Clue]) -> str:
    words = [
        f"{one.name} {one.accuracy:.0%}" + (f" ({one.example})" if one.example and one.strong else "") for one in some
    ]
    verb = "gives the class away" if some[0].strong else "hints at the class"
    return (
        f"What is not the subject {verb}. The share of photos whose class it tells: {', '.join(words)}; guessing "
        f"{some[0].baseline:.0%}."
    )


def _outliers(examined: Examined, same: Copies) -> Finding | None:
    if same.distances.shape[1] < neighbours.NEIGHBOURS:
        return None
    distances = same.distances[:, neighbours.NEIGHBOURS - 1]
    far = neighbours.outliers(distances)
    if not len(far):
        return None
    names, classes = examined.names, examined.dataset.classes
    middle = max(float(np.median(distances)), 1e-6)
    rows = []
    for k in far:
        i, times = same.first[k], float(distances[k]) / middle
        rows.append((names[i], classes[examined.labels[i]], round(times, 2), names[same.first[same.rows[k, 0]]]))
    return Finding(
        "outliers",
        len(rows),
        LOOK,
        f"{counted(len(rows), 'photo')} unlike all others, such as {', '.join(row[0] for row in rows[:SHOWN])}.",
        "Look whether they belong here at all.",
        ("file", "label", "times_the_usual_distance", "nearest_file"),
        tuple(rows),
    )


def _imbalance(examined: Examined) -> Finding | None:
    counts = collections.Counter(dict.fromkeys(examined.dataset.classes, 0))
    counts.update(examined.dataset.classes[label] for label in examined.labels)
    ordered = counts.most_common()
    (largest, most), (smallest, least) = ordered[0], ordered[-1]
    if len(ordered) < 2 or (least >= FEW and most < IMBALANCE * least):
        return None
    text = f"Classes are of very different size: {largest} has {most} photos, {smallest} has {least}."
    if most < IMBALANCE * max(1, least):
        few = [name for name, count in ordered if count < FEW]
        text = f"{len(few)} classes have fewer than {FEW} photos, such as {smallest} with {least}."
    return Finding(
        "imbalance",
        sum(count < FEW or count * IMBALANCE <= most for _, count in ordered),
        TEACHES,
        text,
        "Add photos of the small classes; compare the accuracy with that of always answering the largest.",
        ("label", "photos", "share"),
        tuple((name, count, round(count / max(1, len(examined.labels)), 4)) for name, count in reversed(ordered)),
    )


def _alike(classes: Sequence[str], probabilities: np.ndarray, given: np.ndarray) -> Finding | None:
    found = labels.alike(probabilities, given)
    if not found:
        return None
    rows = [
        (classes[one.first], classes[one.second], one.first_as_second, one.second_as_first, round(one.share, 4))
        for one in found
    ]
    one = rows[0]
    return Finding(
        "alike",
        len(rows),
        LOOK,
        f"{counted(len(rows), 'pair')} of classes that look alike: {one[4]:.0%} of the photos of {one[0]} and {one[1]} "
        "are taken for the other class.",
        "Add photos that show the difference, crop closer, or join them if you can.",
        ("one", "other", "one_taken_for_other", "other_taken_for_one", "share"),
        tuple(rows),
    )


def _summary(examined: Examined, probabilities: np.ndarray | None) -> dict[str, Any]:
    dataset, labels_ = examined.dataset, examined.labels
    sides = [min(one.header.width, one.header.height) for one in examined.files if one.header.width]
    formats = collections.Counter(one.header.format for one in examined.files)
    splits = collections.Counter(str(split) for split in dataset.own_splits[examined.kept] if split)
    told = None if probabilities is None else float((probabilities.argmax(1) == labels_).mean())
    return {
        "files": len(examined.files) + len(dataset.left_out),
        "photos": len(labels_),
        "classes": {name: int((labels_ == i).sum()) for i, name in enumerate(dataset.classes)},
        "splits": dict(splits.most_common()),
        "formats": dict(formats.most_common()),
        "megabytes": round(sum(one.bytes for one in examined.files) / 1e6, 3),
        "short_side": [int(min(sides)), int(np.median(sides)), int(max(sides))] if sides else [0, 0, 0],
        "told_apart": told,
        "labels_doubted": probabilities is not None and labels.knows(probabilities, labels_),
    }


def _tables(examined: Examined, clues: Sequence[leaks.Clue]) -> dict[str, Any]:
    dataset = examined.dataset
    rows = [
        (
            dataset.names[i],
            dataset.classes[dataset.labels[i]],
            dataset.own_splits[i],
            *(one.header.format, one.bytes, one.header.width, one.header.height, one.header.camera),
            examined.reasons.get(i, ""),
        )
        for i, one in enumerate(examined.files)
    ]
    columns = ("file", "label", "split", "format", "bytes", "width", "height", "camera", "reason")
    tested = [(one.name, round(one.accuracy, 4), round(one.baseline, 4), one.p_value, one.example) for one in clues]
    return {
        "files.csv": (columns, rows),
        "clues.csv": (("clue", "accuracy", "guessing", "p_value", "example"), tested),
    }
