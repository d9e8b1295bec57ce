"""Pictures of a run."""

from __future__ import annotations

from pathlib import Path

from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictions import Predictions
from vgg_flax.data.photos import Photos
from vgg_flax.insight import metrics

MOST_MISTAKES = 24  # on a sheet


def write(
    folder: Path, photos: Photos, predictions: Predictions, judge: Judge, log: list[dict[str, float]], kept: int
) -> None:
    """Draw the learning curves, the confusion matrices and the worst mistakes into a run's folder.

    Args:
      kept: number of the row of `log` that was kept, from 1.
    """
    from vgg_flax.report import pictures  # matplotlib is slow to import

    rows, test = photos.rows("test"), predictions.select("test")
    matrix = metrics.evaluate(test, judge)["confusion_matrix"]
    wrong = metrics.mistakes(test, judge)
    pictures.draw_curves(log, kept, folder / "curves.png")
    pictures.draw_confusion(matrix, photos.classes, folder / "confusion_matrix.png", normalize=False)
    pictures.draw_confusion(matrix, photos.classes, folder / "confusion_matrix_normalized.png", normalize=True)
    sheet = [
        (photos.images[rows[i]], photos.names[rows[i]], photos.classes[test.labels[i]], photos.classes[guess], p)
        for i, guess, p in wrong[:MOST_MISTAKES]
    ]
    pictures.draw_mistakes(sheet, len(wrong), len(rows), folder / "mistakes.png")
