"""The test photos that a page looks at closely: mistakes and the least sure, with heat maps and the nearest photos."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from vgg_flax.answers.bundle import Bundle
from vgg_flax.answers.predictions import Predictions
from vgg_flax.answers.training_photos import TrainingPhotos
from vgg_flax.report import thumbnails
from vgg_flax.report.album import Album, training_photo

MISTAKES, LEAST_SURE, NEAREST = 24, 12, 4
DOUBTED = 24  # photos of a kind that the doctor doubts
CLOSE_SIDE = 176  # pixels


@dataclasses.dataclass(frozen=True)
class Close:
    """A photo that is looked at closely; pictures are `data:` URIs.

    Attributes:
      name, truth, said: of the photo, its class, and the label it got.
      probability: of the label; `of_truth`: of the class.
      verdict: as in `judge.Judgement`.
      photo: the picture; empty where it is gone.
      heats: (class, picture) of what speaks for it, the label first.
      parts: (block, what it adds to the label's logit), where the head reads several blocks.
      exact: whether these add up to the logit, with a constant; otherwise they are its first-order expansion.
      nearest: (name, class, picture) of the most similar training photos; class and picture are empty where they are
        not known.
    """

    name: str
    truth: str
    said: str
    probability: float
    of_truth: float
    verdict: str
    photo: str = ""
    heats: tuple[tuple[str, str], ...] = ()
    parts: tuple[tuple[str, float], ...] = ()
    exact: bool = True
    nearest: tuple[tuple[str, str, str], ...] = ()

    @property
    def right(self) -> bool:
        """Whether the label is the class."""
        return self.said == self.truth


def choose(predictions: Predictions, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of (the most confident mistakes, the right answers that are least sure), int64 each, from the test split."""
    test = np.flatnonzero(predictions.splits == "test")
    confidence = probabilities[test].max(1)
    wrong = probabilities[test].argmax(1) != predictions.labels[test]
    order = np.argsort(-confidence, kind="stable")
    mistakes = test[order[wrong[order]]]
    return mistakes[:MISTAKES], test[order[~wrong[order]][::-1]][:LEAST_SURE]


def look(
    rows: np.ndarray,
    predictions: Predictions,
    probabilities: np.ndarray,
    verdicts: np.ndarray,
    album: Album | None,
    bundle: Bundle | None,
) -> list[Close]:
    """Photos with all that there is to say of them.

    Args:
      rows: int `[m]`, of the predictions.
      probabilities: float32 `[n, classes]`, `verdicts`: str `[n]`, of all predictions.
      album: None where the photos are gone.
      bundle: None where there is no model to ask for heat maps.
    """
    pictures = _pictures(rows, predictions, probabilities, album, bundle) if album else {}
    training = _training(predictions, album, bundle)
    names, found = predictions.classes, []
    for row in map(int, rows):
        said, truth = int(probabilities[row].argmax()), int(predictions.labels[row])
        found.append(
            Close(
                str(predictions.names[row]),
                str(names[truth]),
                str(names[said]),
                float(probabilities[row, said]),
                float(probabilities[row, truth]),
                str(verdicts[row]),
                nearest=tuple((name, *training(name)) for name in _nearest(row, predictions)),
                **pictures.get(row, {}),
            )
        )
    return found


def _nearest(row: int, predictions: Predictions) -> list[str]:
    return [str(predictions.references[number]) for number in predictions.nearest[row][:NEAREST] if number >= 0]


def _training(predictions: Predictions, album: Album | None, bundle: Bundle | None) -> Callable[[str], tuple[str, str]]:
    """What gives (class, picture) of a training photo by its name; of an evaluation those are the model's."""
    row_of = {str(name): row for row, name in enumerate(predictions.names)}
    if not (predictions.splits == "train").any():
        return functools.partial(training_photo, TrainingPhotos(bundle)) if bundle else lambda name: ("", "")

    def known(name: str) -> tuple[str, str]:
        row = row_of[name]
        return str(predictions.classes[predictions.labels[row]]), album.thumbnail(row) if album else ""

    return known


def _pictures(
    rows: np.ndarray, predictions: Predictions, probabilities: np.ndarray, album: Album, bundle: Bundle | None
) -> dict[int, dict[str, Any]]:
    """{row: fields of `Close`} of the photos that are still there."""
    rows = rows[album.has(rows)]
    photos = {int(row): thumbnails.at_most(album.original(row), CLOSE_SIDE) for row in rows}
    found: dict[int, dict[str, Any]] = {row: {"photo": thumbnails.data_uri(photo)} for row, photo in photos.items()}
    if bundle is None or not len(rows):
        return found
    from vgg_flax.insight.explain import Explainer  # JAX takes seconds to import

    said, truth = probabilities[rows].argmax(1), predictions.labels[rows]
    of_label, of_truth = Explainer(bundle).explain(album.images(rows), said, truth)
    by_block, heats = of_label.by_block(), [one.shown(CLOSE_SIDE) for one in (of_label, of_truth)]
    for i, (row, photo) in enumerate(photos.items()):
        names = [str(predictions.classes[classes[i]]) for classes in (said, truth)]
        most = max(float(heats[0][i].max()), float(heats[1][i].max()), 1e-9)
        drawn = [thumbnails.data_uri(thumbnails.overlay(photo, heat[i], most)) for heat in heats]
        found[row] |= {
            "heats": tuple(zip(names, drawn, strict=True))[: 1 + int(said[i] != truth[i])],
            "parts": tuple((name, float(part[i])) for name, part in by_block.items()) if len(by_block) > 1 else (),
            "exact": of_label.linear,
        }
    return found


def doubted(found: dict[str, Any], predictions: Predictions, album: Album | None) -> dict[str, Any]:
    """What the doctor's first look at a run found, with pictures.

    Args:
      found: counts `wrong_labels`, `near_copy_groups`, `outliers`, and the first photos of two of these:
        `first_wrong_labels`, {file, label, suggested, probability} each, and `first_outliers`, files.
      predictions: of all splits, in which the files are named.

    Returns:
      The counts; `labels` and `far`, those photos, at most DOUBTED, each with its `picture`. Empty of nothing.
    """
    if not found:
        return {}
    row_of = {str(name): row for row, name in enumerate(predictions.names)}

    def with_picture(file: str, more: dict[str, Any]) -> dict[str, Any]:
        return {**more, "file": file, "picture": album.thumbnail(row_of[file]) if album and file in row_of else ""}

    counts = {name: found.get(name, 0) for name in ("wrong_labels", "near_copy_groups", "outliers")}
    labels = [with_picture(one["file"], one) for one in found.get("first_wrong_labels", [])[:DOUBTED]]
    return {
        **counts,
        "labels": labels,
        "far": [with_picture(file, {}) for file in found.get("first_outliers", [])[:DOUBTED]],
    }
