"""The pictures that a run leaves: drawn for any number of rows, without a warning."""

import cv2
import pytest

from vgg_flax.report import pictures


@pytest.mark.parametrize("rows", [1, 3, 80])
def test_curves_of_few_and_of_many_rows(tmp_path, rows):
    log = [
        {"epoch": n, "train_loss": 1 / n, "train_accuracy": 0.5, "val_loss": 2 / n, "val_accuracy": 0.4}
        for n in range(1, rows + 1)
    ]
    pictures.draw_curves(log, rows, tmp_path / "curves.png")
    assert cv2.imread(str(tmp_path / "curves.png")).shape[:2] > (400, 1000)
