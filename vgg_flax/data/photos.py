"""The pictures of a data set, decoded, and which of them trains, validates and tests."""

from __future__ import annotations

import collections
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from vgg_flax.cache import Rows, RowStore
from vgg_flax.console import bar, counted, say
from vgg_flax.data import copies, decode, open_dataset
from vgg_flax.data.dataset import Dataset, LeftOut
from vgg_flax.data.groups import Groups, find_groups
from vgg_flax.data.reading import Seen, content_keys, decode_all, look_at, two_labels
from vgg_flax.data.split import assign_folds, assign_splits, overlaps
from vgg_flax.errors import UserError
from vgg_flax.network.spec import Preprocessing
from vgg_flax.settings import SplitSettings, TrainSettings

USUAL_SIZE, SMALL_SIZE, DIGIT_SIZE = 224, 160, 64
SMALL_PHOTO = 200  # pixels: below this median short side SMALL_SIZE is enough, see docs/accuracy.md
SHOWN = 5  # examples in a line


@dataclasses.dataclass(frozen=True)
class Photos:
    """The usable pictures of a data set. Immutable: `with_splits` gives a new one.

    Attributes:
      source: what the user typed.
      classes: names, sorted; a label is an index into it.
      images: uint8 RGB `[n, size, size, 3]`, read from the disk when indexed.
      labels: int32 `[n]`.
      names: `[n]`, for tables and reports.
      contents: `[n]` SHA-256 of the encoded pictures, hexadecimal.
      groups: `[n]` the least content among the pictures that must share a split.
      splits: `[n]` "train", "val" or "test"; before `with_splits` "" where the data leaves it to us.
      left_out: what is not used, and why.
      own_val: whether the validation pictures are the user's own choice.
      decoded: how many pictures had to be decoded now.
      found: what was counted, for the report: JSON types.
      notes: what was found, a line each.
      warnings: what may make the results untrue, a line each.
      read: name -> the encoded bytes of that picture. Raises BadImage.
      region: the part of each picture that `images` show, see `Preprocessing`.
    """

    source: str
    classes: tuple[str, ...]
    images: Any
    labels: np.ndarray
    names: tuple[str, ...]
    contents: np.ndarray
    groups: np.ndarray
    splits: np.ndarray
    left_out: tuple[LeftOut, ...] = ()
    own_val: bool = False
    decoded: int = 0
    found: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    read: Callable[[str], bytes] | None = None
    region: str = "full"

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def bad(self) -> tuple[tuple[str, str], ...]:
        """(name, reason) of what is not used."""
        return tuple((one.name, one.reason) for one in self.left_out)

    def rows(self, *splits: str) -> np.ndarray:
        """Indices of the pictures in these splits, int64 `[m]`, in order."""
        return np.flatnonzero(np.isin(self.splits, splits))

    def only(self, rows: np.ndarray) -> Photos:
        """Some of the pictures: int `[m]`."""
        return dataclasses.replace(
            self,
            images=self.images.only(rows) if isinstance(self.images, Rows) else self.images[rows],
            labels=self.labels[rows],
            names=tuple(self.names[index] for index in rows),
            contents=self.contents[rows],
            groups=self.groups[rows],
            splits=self.splits[rows],
        )

    def with_splits(self, settings: SplitSettings) -> Photos:
        """The same pictures, every one in a split, without those that would train on what is tested.

        Raises:
          UserError: a class is too small.
        """
        some = self._without_overlaps()
        splits = assign_splits(some.labels, some.groups, some.splits, some.classes, settings)
        return dataclasses.replace(some, splits=splits, own_val="val" in self.splits)

    def _without_overlaps(self) -> Photos:
        """Without the training pictures whose group is also in the user's own validation or test pictures."""
        twins = overlaps(self.groups, self.splits)
        if not twins:
            return self
        dropped, counts = [], collections.Counter()
        for index, twin in twins.items():
            same = self.contents[index] == self.contents[twin]
            what = "the same bytes as" if same else "shares a group (near-copy or --group) with"
            reason = f"{what} {self.names[twin]!r} of {self.splits[twin]}"
            dropped.append(LeftOut(self.names[index], reason, self.classes[self.labels[index]]))
            counts[(str(self.splits[index] or "train"), str(self.splits[twin]))] += 1
        keep = np.setdiff1d(np.arange(len(self)), list(twins))
        free = keep[np.isin(self.splits[keep], ("", "train"))]
        for label in np.setdiff1d(self.labels, self.labels[free]):
            raise UserError(
                f"class {self.classes[label]!r} has no training photo of its own: all of them also lie in val or test "
                "or have a near-copy there. Add photos to train, or remove val and test."
            )
        lines = [
            f"{counted(count, 'photo')} of {place} also in {other}, or with a near-copy there: left out of {place}"
            for (place, other), count in sorted(counts.items())
        ]
        return dataclasses.replace(
            self.only(keep),
            left_out=tuple(sorted((*self.left_out, *dropped))),
            found={**self.found, "left_out_for_overlap": {f"{a} with {b}": n for (a, b), n in sorted(counts.items())}},
            warnings=(*self.warnings, *lines),
        )

    def folds(self, rows: np.ndarray, count: int, seed: int) -> np.ndarray:
        """Fold of each of `rows` `[m]` for cross-validation: int64 `[m]`, 0 to count - 1."""
        return assign_folds(self.labels[rows], self.groups[rows], count, seed)

    @functools.cached_property
    def digest(self) -> str:
        """Of all contents, labels and splits, in order."""
        parts = [self.classes, self.contents.tolist(), self.labels.tolist(), self.splits.tolist()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def load(settings: TrainSettings, check: Callable[[], None] = lambda: None) -> tuple[Photos, int]:
    """(The pictures that `--data` names, image size): listed, hashed, decoded unless an earlier run did, split.

    Raises:
      UserError: there is nothing to train on, or with `--strict` a picture can't be used.
    """
    dataset = open_dataset(settings.data, label=settings.label, group=settings.split.group)
    for line in dataset.notes:
        say(line)
    seen = look_at(dataset, check)
    size = choose_size(dataset, seen, settings.image_size)
    how = Preprocessing(size, region=settings.region)
    photos = decoded_photos(dataset, seen, how, strict=settings.split.strict, check=check)
    return photos.with_splits(settings.split), size


def _median_side(seen: Sequence[Seen]) -> float:
    """Pixels; 0 where no header is understood."""
    sides = [one.short_side for one in seen if one.short_side]
    return float(np.median(sides)) if sides else 0.0


def choose_size(dataset: Dataset, seen: Sequence[Seen], asked: int | Literal["auto"]) -> int:
    """Side of the network's square input in pixels: what was asked for, or what suits the photos."""
    if asked != "auto":
        return asked
    side = _median_side(seen)
    if dataset.source == "digits":
        return DIGIT_SIZE
    if not side or side >= SMALL_PHOTO:
        return USUAL_SIZE
    say(f"image size {SMALL_SIZE}: the photos' median short side is {side:.0f} pixels")
    return SMALL_SIZE


def decoded_photos(
    dataset: Dataset,
    seen: Sequence[Seen],
    how: Preprocessing,
    *,
    strict: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Photos:
    """The pictures of a data set that can be used, in groups, in the data's own splits.

    Args:
      how: their size and region.
      strict: raise UserError at the first bad picture instead of leaving it out.
      check: called between pictures; may raise to stop.

    Raises:
      UserError: of a whole class no picture can be used.
    """
    reasons = {index: one.reason for index, one in enumerate(seen) if one.reason}
    double = two_labels(dataset, seen)
    store, wrong, decoded = decode_all(dataset, seen, how, reasons | double, check)
    reasons |= wrong
    if strict and reasons:
        index = min(reasons)
        raise UserError(
            f"{dataset.names[index]}: {reasons[index]}. Fix or remove it, or leave out --strict to go on without it."
        )
    reasons |= double
    _check_classes(dataset, reasons)
    kept = np.array([index for index in range(len(seen)) if index not in reasons])
    contents = np.array([seen[index].content or "" for index in kept])
    labels = dataset.labels[kept]
    pairs = _near_pairs(store, contents, _median_side(seen), check)
    groups = find_groups(contents, labels, pairs, [key[kept] for key in dataset.keys])
    names, places = tuple(dataset.names[index] for index in kept), {name: i for i, name in enumerate(dataset.names)}
    left_out = [LeftOut(dataset.names[i], why, dataset.classes[dataset.labels[i]]) for i, why in reasons.items()]
    return Photos(
        source=dataset.source,
        classes=dataset.classes,
        images=store.rows(content_keys(contents.tolist()), "image"),
        labels=labels,
        names=names,
        contents=contents,
        groups=groups.names,
        splits=dataset.own_splits[kept],
        left_out=tuple(sorted((*left_out, *dataset.left_out))),
        decoded=decoded,
        found=_counted(dataset, groups, reasons, double),
        notes=(*_in_words(groups), *_depths(store, contents)),
        warnings=(*dataset.warnings, *_doubts(dataset.classes, names, groups, double)),
        read=lambda name: dataset.read(places[name]),
        region=how.region,
    )


def _check_classes(dataset: Dataset, reasons: Mapping[int, str]) -> None:
    """Raises UserError when nothing is left of a class; says the commonest reason, which says what helps."""
    good = np.setdiff1d(np.arange(len(dataset.names)), list(reasons))
    for label in np.setdiff1d(dataset.labels, dataset.labels[good]):
        mine = np.flatnonzero(dataset.labels == label)
        [(reason, _)] = collections.Counter(reasons[int(index)] for index in mine).most_common(1)
        first = next(index for index in mine if reasons[int(index)] == reason)
        raise UserError(
            f"class {dataset.classes[label]!r}: none of its {len(mine)} pictures can be used, such as "
            f"{dataset.names[first]}: {reason}."
        )


def _near_pairs(store: RowStore, contents: np.ndarray, side: float, check: Callable[[], None]) -> np.ndarray:
    """Pairs of near-copies, int64 `[m, 2]`; none of pictures so small that they all look alike."""
    if side < copies.LEAST_SIDE:
        return np.empty((0, 2), np.int64)
    _, first = np.unique(contents, return_index=True)
    hashes = store.rows(content_keys(contents[first].tolist()), "hash")[:]
    with bar("comparing photos", len(first), summary=False) as advance:

        def done(count: int) -> None:
            check()
            advance(count)

        return first[copies.near_pairs(hashes, done)]


def _counted(dataset: Dataset, groups: Groups, reasons: Mapping[int, str], double: Mapping[int, str]) -> dict[str, Any]:
    return {
        "files": len(dataset.names) + len(dataset.left_out),
        "not_usable": len(reasons) - len(double) + len(dataset.left_out),
        "same_bytes_under_two_labels": len(double),
        "copies": groups.copies,
        "near_copy_groups": groups.near,
        "largest_near_copy_group": groups.largest,
        "near_copies_ignored_in": [dataset.classes[label] for label, _ in groups.chained],
        "near_copies_with_two_labels": len(groups.mixed),
        "left_out_for_overlap": {},
    }


def _in_words(groups: Groups) -> list[str]:
    lines = []
    if groups.copies:
        same = counted(groups.copies, "photo has", "photos have")
        lines.append(f"{same} the same bytes as another: copies share one side of the split")
    if groups.near:
        lines.append(
            f"groups of near-copies: {groups.near}, the largest of {groups.largest} photos; each shares one side"
        )
    return lines


def _depths(store: RowStore, contents: np.ndarray) -> list[str]:
    """Which 16-bit pictures hold values of fewer bits."""
    depths = store.rows(content_keys(contents.tolist()), "depth")[:]
    counts = [(bits, int((depths == bits).sum())) for bits in decode.DEPTHS]
    held = [(bits, counted(count, "16-bit picture holds", "16-bit pictures hold")) for bits, count in counts if count]
    return [f"{pictures} {bits}-bit values: scaled by that depth" for bits, pictures in held]


def _doubts(classes: Sequence[str], names: Sequence[str], groups: Groups, double: Mapping[int, str]) -> list[str]:
    lines = [
        f"near-copies are ignored in class {classes[label]!r}: a chain of {size} photos only looks alike"
        for label, size in groups.chained
    ]
    if groups.mixed:
        some = "; ".join(f"{names[i]!r} and {names[j]!r}" for i, j in groups.mixed[:SHOWN])
        pairs = counted(len(groups.mixed), "pair")
        more = ", ..." if len(groups.mixed) > SHOWN else ""
        lines.append(f"{pairs} of near-copies with two labels (they share one side): {some}{more}")
    if double:
        lines.append(f"{len(double)} files hold the same bytes under two labels: left out, see bad_files.csv")
    return lines
