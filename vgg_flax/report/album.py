"""Photos for a page: those of a run by their row, those that a model has learned from by their name."""

from __future__ import annotations

import contextlib

import numpy as np

from vgg_flax import console
from vgg_flax.answers.predictions import Predictions
from vgg_flax.answers.training_photos import TrainingPhotos
from vgg_flax.data import decode
from vgg_flax.data.photos import Photos
from vgg_flax.errors import BadImage
from vgg_flax.network.preprocess import region_of
from vgg_flax.report import original, thumbnails


class Album:
    """The photos of a run, found by their content: those that are still there.

    Args:
      photos: as they are now.
      predictions: of the run, all splits.
    """

    def __init__(self, photos: Photos, predictions: Predictions):
        where = {str(content): row for row, content in enumerate(photos.contents)}
        self._photos = photos
        self._rows = np.array([where.get(str(content), -1) for content in predictions.contents], np.int64)

    def has(self, rows: np.ndarray) -> np.ndarray:
        """Which of these rows of the predictions still have their photo: bool `[m]`."""
        return self._rows[rows] >= 0

    def images(self, rows: np.ndarray) -> np.ndarray:
        """As the network sees them: uint8 RGB `[m, size, size, 3]`."""
        return self._photos.images[self._rows[rows]]

    def small(self, row: int) -> np.ndarray:
        """What the network sees, as a thumbnail in the proportions of the file: uint8 RGB `[h, w, 3]`."""
        image, name = self.images(np.array([row]))[0], self._photos.names[self._rows[row]]
        shape = (1, 1)
        if self._photos.read is not None:
            with contextlib.suppress(BadImage):  # it has gone meanwhile
                width, height = decode.upright_size(self._photos.read(name)) or shape
                shape = region_of(self._photos.region, height, width)[2:]
        return thumbnails.thumbnail(image, shape)

    def thumbnail(self, row: int) -> str:
        """The same as a `data:` URI; empty where the photo is gone."""
        return thumbnails.data_uri(self.small(row)) if self.has(np.array([row]))[0] else ""

    def original(self, row: int) -> np.ndarray:
        """What the model sees of it, as people know it: uint8 RGB `[h, w, 3]`; or else as `images`."""
        return original(self._photos, int(self._rows[row]))


def training_photo(known: TrainingPhotos, name: str) -> tuple[str, str]:
    """(Class, `data:` URI) of a photo that a model has learned from; both empty where it is gone."""
    with console.without_noise():
        found = known(name)
    return (found[0], thumbnails.data_uri(thumbnails.at_most(found[1], thumbnails.SIDE))) if found else ("", "")
