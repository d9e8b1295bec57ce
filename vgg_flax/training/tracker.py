"""The log of a run once more, for a program that shows many runs. metrics.csv stays the truth.

Another tracker is a class with these three methods, a row of TRACKERS, and its name in `TrainSettings.tracker`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

UNTRACKED = ("epoch",)


class Tracker(Protocol):
    """What a run tells."""

    def log(self, row: Mapping[str, float]) -> None:
        """A row of metrics.csv: an epoch, or an iteration."""

    def finish(self, results: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        """The metrics of test and validation, as in report.json, and pictures by name, PNG files."""

    def close(self) -> None:
        """Nothing more comes."""


class NoTracker:
    """Tells nobody."""

    def __init__(self, folder: Path):
        pass

    def log(self, row: Mapping[str, float]) -> None:
        pass

    def finish(self, results: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoard:
    """An event file in the run's folder: scalars of every row, the final metrics, and pictures."""

    def __init__(self, folder: Path):
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(str(folder))
        self._last = 0

    def log(self, row: Mapping[str, float]) -> None:
        self._last = int(row["epoch"])
        for name, value in row.items():
            if name not in UNTRACKED:
                self._writer.add_scalar(name.replace("_", "/", 1), value, self._last)
        self._writer.flush()

    def finish(self, results: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        import cv2

        for split, metrics in results.items():
            for name, value in metrics.items():
                if isinstance(value, float):
                    self._writer.add_scalar(f"{split}/{name}", value, self._last)
        for name, path in pictures.items():
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
            if picture is not None:
                self._writer.add_image(name, picture, self._last, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


TRACKERS = {"none": NoTracker, "tensorboard": TensorBoard}
