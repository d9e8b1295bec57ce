"""Pictures of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vgg_flax import console
from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictions import Predictions
from vgg_flax.data.photos import Photos
from vgg_flax.errors import BadImage
from vgg_flax.insight import metrics
from vgg_flax.settings import TrainSettings

MOST_MISTAKES = 24  # on a sheet
LONG_SIDE = 480  # pixels of a photo on it, at most
VIEWED, VIEWS = 6, 4  # training photos whose augmentation is shown, and how many views


def write(
    folder: Path,
    settings: TrainSettings,
    photos: Photos,
    predictions: Predictions,
    judge: Judge,
    log: list[dict[str, float]],
    kept: int,
) -> None:
    """Draw learning curves, confusion matrices, the worst mistakes and the augmentation into a run's folder.

    Args:
      kept: number of the row of `log` that was kept, from 1.
    """
    from vgg_flax.report import pictures  # matplotlib is slow to import

    unit = "iteration" if settings.head == "regression" else "epoch"
    pictures.draw_curves(log, kept, folder / "curves.png", unit)
    names = write_test(folder, photos, predictions, judge)
    if settings.features.views > 1 or not settings.stores:
        chosen = _one_of_each_class(photos)
        labels = [names[photos.labels[i]] for i in chosen]
        pictures.draw_views(random_views(photos, chosen, settings), labels, folder / "views.png")


def write_test(folder: Path, photos: Photos, predictions: Predictions, judge: Judge) -> list[str]:
    """Draw the confusion matrices and the worst mistakes of the test; returns the class names as they can be drawn."""
    from vgg_flax.report import confusion, fonts, pictures

    rows, test = photos.rows("test"), predictions.select("test")
    names, undrawn = fonts.drawable(photos.classes)
    if undrawn:
        more = f" and {len(undrawn) - 5} more (see split.csv)" if len(undrawn) > 5 else ""
        console.say(f"no font here draws every class name, so in the pictures {', '.join(undrawn[:5])}{more}")
    matrix = metrics.confusion(test).tolist()
    wrong = metrics.mistakes(test, judge)
    confusion.draw_confusion(matrix, names, folder / "confusion_matrix.png", normalize=False)
    confusion.draw_confusion(matrix, names, folder / "confusion_matrix_normalized.png", normalize=True)
    worst = wrong[:MOST_MISTAKES]
    files, _ = fonts.drawable([photos.names[rows[i]] for i, _, _ in worst])
    sheet = [
        (original(photos, rows[i]), file, names[test.labels[i]], names[guess], p)
        for (i, guess, p), file in zip(worst, files, strict=True)
    ]
    pictures.draw_mistakes(sheet, len(wrong), len(rows), folder / "mistakes.png")
    return names


def original(photos: Photos, row: int) -> np.ndarray:
    """What the model sees of a photo, as people know it, uint8 RGB `[h, w, 3]`; if it is gone, the network's input."""
    import cv2

    from vgg_flax.data import decode
    from vgg_flax.network.preprocess import region_of

    if photos.read is None:
        return photos.images[row]
    try:
        with console.without_noise():
            photo = decode.decode(photos.read(photos.names[row]))
    except BadImage:
        return photos.images[row]
    left, top, width, height = region_of(photos.region, *photo.shape[:2])
    photo = photo[top : top + height, left : left + width]
    scale = LONG_SIDE / max(height, width)
    return cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else photo


def _one_of_each_class(photos: Photos) -> list[int]:
    """Rows of training photos, of as many classes as there are; the same in every run."""
    rows = photos.rows("train")
    rank = np.empty(len(rows), np.int64)  # of each among those of its class
    for label in np.unique(photos.labels[rows]):
        same = photos.labels[rows] == label
        rank[same] = np.arange(same.sum())
    return sorted(rows[np.argsort(rank, kind="stable")[:VIEWED]].tolist(), key=lambda row: photos.labels[row])


def random_views(photos: Photos, rows: Sequence[int], settings: TrainSettings) -> list[np.ndarray]:
    """The clean picture and random views of it, uint8 `[1 + VIEWS, side, side, 3]` for each of `rows`."""
    from vgg_flax.network import augment

    images, contents = photos.images[np.asarray(rows)], photos.contents[np.asarray(rows)]
    views = [images]
    for number in range(1, VIEWS + 1):
        keys = augment.view_keys(settings.split.seed, number, contents)
        views.append(np.rint(np.asarray(augment.augment(images, keys, settings.augmentation))).astype(np.uint8))
    return list(np.stack(views, 1))
