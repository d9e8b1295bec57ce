"""Batches: which picture comes when, in which view, and the arrays that a training step reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from vgg_flax.data.photos import Photos
from vgg_flax.data.prefetch import prefetch
from vgg_flax.network import augment
from vgg_flax.network.extract import batch_size
from vgg_flax.network.preprocess import normalize
from vgg_flax.settings import TrainSettings
from vgg_flax.store import FeatureStore

CHUNK_BYTES = 256 * 2**20  # of stored rows that are gathered at a time


@dataclasses.dataclass(frozen=True)
class Batches:
    """Some optimiser steps' worth of input; an image with weight 0 is padding and counts nowhere.

    Attributes:
      inputs: float32 `[steps, batch, ...]`: pooled rows, maps, or normalised images.
      labels: int32 `[steps, batch]`.
      weights: float32 `[steps, batch]`, 1 or 0.
    """

    inputs: Any
    labels: Any
    weights: Any


jax.tree_util.register_dataclass(Batches)


@dataclasses.dataclass(frozen=True)
class Plan:
    """One epoch: which pictures make up each batch, and which stored view of each is shown.

    `indices`, `views`: int64 `[steps, batch]`; `weights`: float32 `[steps, batch]`. A function of (seed, epoch)
    alone, which is what makes an interrupted run go on exactly.
    """

    indices: np.ndarray
    views: np.ndarray
    weights: np.ndarray


def plan_epoch(count: int, batch_size: int, views: int, seed: int, epoch: int) -> Plan:
    """Every picture once, in random order, each in one random view; the last batch is padded with weight 0."""
    rng = np.random.default_rng((seed, epoch))
    order, chosen = rng.permutation(count), rng.integers(views, size=count)
    steps = -(-count // batch_size)
    weights = (np.arange(steps * batch_size) < count).astype(np.float32)
    shape = (steps, batch_size)
    return Plan(np.resize(order, shape), np.resize(chosen, shape), weights.reshape(shape))


class Feed:
    """What training and evaluation read, wherever it comes from.

    Attributes:
      what: what is given of a picture: `pooled`, a map such as `block4`, or `images`, normalised; see `Cut.stored`.
      fitted: rows of the pictures that the head is fitted to in the end, int64 `[m]`.
    """

    def __init__(self, photos: Photos, store: FeatureStore, what: str, settings: TrainSettings):
        self.photos, self.store, self.what, self.settings = photos, store, what, settings
        splits = ("train", "val") if settings.head == "regression" else ("train",)
        self.fitted = photos.rows(*splits)
        self.views = range(settings.features.views if settings.stores else 1)

    def fill(self, check: Callable[[], None] = lambda: None) -> None:
        """Compute the rows that no earlier run has left behind. `check` may raise to stop; what is done stays done."""
        photos = self.photos
        self.store.fill(photos.images, photos.contents, 0, check)
        for view in self.views[1:]:
            self.store.fill(_Chosen(photos.images, self.fitted), photos.contents[self.fitted], view, check)

    def pooled(self, rows: np.ndarray, view: int = 0) -> np.ndarray:
        """Averages and maxima of the frozen blocks 3 to 5: float32 `[len(rows), n]`."""
        return self.store.rows("pooled", self.photos.contents[rows], view)[:]

    def epoch(self, number: int, done: int = 0) -> Iterator[Batches]:
        """The training pictures once, a function of (seed, number) alone, but for the first `done` steps."""
        settings = self.settings
        count, batch, seed = len(self.fitted), settings.optimizer.batch_size, settings.split.seed
        plan = plan_epoch(count, batch, len(self.views), seed, number)
        if done >= len(plan.indices):
            return iter(())
        if settings.stores:
            return self._stored(plan, done)
        return self._fresh(plan, number, done)

    def clean(self, rows: np.ndarray) -> Iterator[tuple[Any, int]]:
        """Clean pictures in chunks of one length, the last one padded: (inputs `[size, ...]`, how many of it count)."""
        size = min(batch_size(self.store.extractor.preprocessing.image_size), max(1, len(rows)))
        for start in range(0, len(rows), size):
            piece = rows[start : start + size]
            padded = np.resize(piece, size)
            if self.what == "images":
                yield normalize(self.photos.images[padded], self.store.extractor.preprocessing), len(piece)
            else:
                yield self.store.rows(self.what, self.photos.contents[padded])[:], len(piece)

    def _stored(self, plan: Plan, done: int) -> Iterator[Batches]:
        """From stored rows, in chunks of steps that fit CHUNK_BYTES; from stored maps step by step."""
        contents, labels = self.photos.contents[self.fitted], self.photos.labels[self.fitted]
        views = [self.store.rows(self.what, contents, view) for view in self.views]
        steps, batch = plan.indices.shape
        shape = views[0].shape[1:]
        chunk = max(1, CHUNK_BYTES // (batch * shape[0] * 4)) if len(shape) == 1 else 1  # maps take their time
        for start in range(done, steps, chunk):
            part = slice(start, start + chunk)
            indices = plan.indices[part]
            inputs = np.empty((*indices.shape, *shape), np.float32)
            for view, rows in enumerate(views):
                here = plan.views[part] == view
                inputs[here] = rows[indices[here]]
            yield Batches(inputs, labels[indices], plan.weights[part])

    def _fresh(self, plan: Plan, view: int, done: int) -> Iterator[Batches]:
        """From the pictures, each in the same-numbered random view, through the frozen layers as far as `what`."""
        photos, extractor, augmentation = self.photos, self.store.extractor, self.store.augmentation
        rows = self.fitted[plan.indices]
        left = prefetch(lambda k: photos.images[rows[done + k]], len(rows) - done, ahead=2)
        for k, images in enumerate(left, done):
            keys = augment.view_keys(self.store.seed, view, photos.contents[rows[k]]) if view else None
            if self.what == "images":
                inputs = normalize(augment.augment(images, keys, augmentation), extractor.preprocessing)
            else:
                inputs = extractor(images, keys, augmentation)[self.what]
            yield Batches(inputs[None], photos.labels[rows[k]][None], plan.weights[k][None])


class _Chosen:
    """Some rows of an array that is read when it is indexed."""

    def __init__(self, array: Any, rows: np.ndarray):
        self.array, self.rows = array, rows

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.array[self.rows[index]]
