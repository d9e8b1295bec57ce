"""What a model says of every picture of a data set: one table that evaluation, calibration and reports read."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np

from vgg_flax.answers.judge import NEIGHBOURS, Judge, calibrate
from vgg_flax.data.photos import Photos
from vgg_flax.errors import UserError
from vgg_flax.files import write_atomic

ROWS = ("names", "contents", "splits", "labels", "logits", "folds", "familiarity", "nearest")
ARRAYS = ("classes", *ROWS, "references", "own_val")


@dataclasses.dataclass(frozen=True)
class Predictions:
    """A row a picture.

    Attributes:
      classes: str `[classes]`, in the order of the logits.
      names: str `[n]`, as in `Photos`.
      contents: str `[n]`, SHA-256 of the encoded pictures.
      splits: str `[n]`: train, val or test.
      labels: int32 `[n]`.
      logits: float32 `[n, classes]`, before any temperature.
      folds: int64 `[n]`: the model that answers was fitted without this fold; -1 where the final model answers.
      familiarity: float64 `[n]`, see `judge.Judgement`, of training pictures without themselves; NaN where unknown.
      nearest: int64 `[n, 5]`, the references that are most alike, nearest first; -1 where unknown.
      references: str `[m]`, names of the training pictures that others are compared with.
      own_val: bool, whether the validation pictures are the user's own choice.
    """

    classes: np.ndarray
    names: np.ndarray
    contents: np.ndarray
    splits: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    folds: np.ndarray
    familiarity: np.ndarray
    nearest: np.ndarray
    references: np.ndarray
    own_val: np.ndarray

    @classmethod
    def of(cls, photos: Photos, logits: np.ndarray, folds: np.ndarray | None = None) -> Predictions:
        """Of photos in splits; nothing is known yet of what is near. folds: unset: the final model answers alone."""
        count = len(photos)
        return cls(
            classes=np.array(photos.classes),
            names=np.array(photos.names),
            contents=photos.contents,
            splits=photos.splits,
            labels=photos.labels,
            logits=logits,
            folds=np.full(count, -1) if folds is None else folds,
            familiarity=np.full(count, np.nan),
            nearest=np.full((count, NEIGHBOURS), -1),
            references=np.array([], str),
            own_val=np.array(photos.own_val),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def where(self, rows: np.ndarray) -> Predictions:
        """Some rows: bool or int `[m]`."""
        parts = {name: getattr(self, name)[rows] for name in ROWS}
        return dataclasses.replace(self, **parts)

    def select(self, *splits: str) -> Predictions:
        """The rows of these splits."""
        return self.where(np.isin(self.splits, splits))

    def validation(self) -> Predictions:
        """The rows that validation numbers are measured on: answers of models that have not seen them.

        The user's own validation folder; otherwise all out-of-fold rows; for heads without folds the val split.
        """
        folded = self.folds >= 0
        return self.select("val") if self.own_val or not folded.any() else self.where(folded)

    def compared(self, judge: Judge, averages: np.ndarray) -> Predictions:
        """The same, knowing how like the training pictures each is; as it is where the judge doesn't know them.

        Args:
          judge: of what is no test picture here, the names of its references are those of this table.
          averages: float32 `[n, channels]`, of block 5.
        """
        if judge.references is None:
            return self
        number_of = {name: number for number, name in enumerate(judge.references.names)}
        learned = zip(self.names.tolist(), self.splits != "test", strict=True)
        own = np.array([number_of.get(name, -1) if known else -1 for name, known in learned], np.int64)
        familiarity, nearest = judge.familiarity(averages, own)
        names = np.array(judge.references.names)
        return dataclasses.replace(self, familiarity=familiarity, nearest=nearest, references=names)

    def judge(self, min_precision: float = 0.95) -> Judge:
        """Calibrated on every row, the test apart, that the answering model has not seen."""
        folded = self.folds >= 0
        unseen = self.where(folded) if folded.any() else self.select("val")
        return calibrate(unseen.logits, unseen.labels, min_precision)

    def save(self, path: Path) -> None:
        """predictions.npz, whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **{name: getattr(self, name) for name in ARRAYS})
        write_atomic(path, buffer.getvalue())


def load(path: Path) -> Predictions:
    """Read predictions.npz. Raises UserError when there is none, or it is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            table = Predictions(*(arrays[name] for name in ARRAYS))
        lengths = {len(getattr(table, name)) for name in ROWS}
        if len(lengths) > 1 or table.nearest.max(initial=-1) >= len(table.references):
            raise ValueError("its arrays do not fit each other")
        return table
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no predictions ({error}), expected what a finished run leaves there.") from None
