"""The photos that a model has learned from, where they still lie."""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from vgg_flax.answers.bundle import Bundle
from vgg_flax.data import decode, open_dataset
from vgg_flax.data.dataset import Dataset
from vgg_flax.errors import BadImage, UserError


class TrainingPhotos:
    """Gives (class, uint8 RGB `[h, w, 3]`) of a photo by its name, from where the model says that it was trained.

    None where the photo is no longer there, or another one has its name.
    """

    def __init__(self, bundle: Bundle):
        self._bundle = bundle

    def __call__(self, name: str) -> tuple[str, np.ndarray] | None:
        if self._dataset is None or name not in self._places:
            return None
        place = self._places[name]
        try:
            data = self._dataset.read(place)
            if not self._bundle.judge.has_seen([hashlib.sha256(data).hexdigest()])[0]:
                return None
            return self._dataset.classes[self._dataset.labels[place]], decode.decode(data)
        except BadImage:
            return None

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
