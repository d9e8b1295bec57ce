"""Photos for a page: those of a run by their row, those that a model has learned from by their name."""

from __future__ import annotations

import contextlib
import functools
import hashlib

import numpy as np

from vgg_flax import console
from vgg_flax.answers.bundle import Bundle
from vgg_flax.answers.predictions import Predictions
from vgg_flax.data import decode, open_dataset
from vgg_flax.data.dataset import Dataset
from vgg_flax.data.photos import Photos
from vgg_flax.errors import BadImage, UserError
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


class TrainingPhotos:
    """Gives (class, picture) of a photo that a model has learned from, by its name.

    The picture is a `data:` URI. Both are empty where the photo is no longer there, or another one has its name.
    """

    def __init__(self, bundle: Bundle):
        self._bundle = bundle

    def __call__(self, name: str) -> tuple[str, str]:
        if self._dataset is None or name not in self._places:
            return "", ""
        place = self._places[name]
        try:
            with console.without_noise():
                data = self._dataset.read(place)
                if not self._bundle.judge.has_seen([hashlib.sha256(data).hexdigest()])[0]:
                    return "", ""
                photo = thumbnails.at_most(decode.decode(data), thumbnails.SIDE)
        except BadImage:
            return "", ""
        return self._dataset.classes[self._dataset.labels[place]], thumbnails.data_uri(photo)

    @functools.cached_property
    def _dataset(self) -> Dataset | None:
        training = self._bundle.training
        try:
            return open_dataset(training["data"], label=training["settings"].get("label"))
        except (UserError, OSError, KeyError):
            return None

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self._dataset.names)} if self._dataset else {}
