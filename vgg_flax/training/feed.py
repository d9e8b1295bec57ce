"""What an epoch is made of: which picture comes when, in which view, and the arrays that a training step eats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vgg_flax.data.photos import prefetch
from vgg_flax.network.augment import view_keys


@dataclasses.dataclass(frozen=True)
class Batches:
    """Some optimiser steps' worth of input; an image with weight 0 is padding and counts nowhere.

    Attributes:
      inputs: float32 `[steps, batch, ...]`: features, maps, or normalised images.
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


def feature_batches(
    views: list[tuple[np.ndarray, np.ndarray]], labels: np.ndarray, plan: Plan, chunk_bytes: int = 256 * 2**20
) -> Iterator[Batches]:
    """Gather an epoch from stored features, in chunks of steps that fit `chunk_bytes`; from stored maps, step by step.

    Args:
      views: for each view its features float32 `[rows, n]` or maps `[rows, side, side, channels]`, memory-mapped, and
        `[m]` the row of each picture.
      labels: int32 `[m]`.
    """
    steps, batch = plan.indices.shape
    shape = views[0][0].shape[1:]
    chunk = max(1, chunk_bytes // (batch * shape[0] * 4)) if len(shape) == 1 else 1  # a step on maps takes its time
    for start in range(0, steps, chunk):
        part = slice(start, start + chunk)
        indices = plan.indices[part]
        inputs = np.empty((*indices.shape, *shape), np.float32)
        for view, (features, rows) in enumerate(views):
            here = plan.views[part] == view
            inputs[here] = features[rows[indices[here]]]
        yield Batches(inputs, labels[indices], plan.weights[part])


def all_at_once(views: list[tuple[np.ndarray, np.ndarray]], labels: np.ndarray) -> Batches:
    """Every picture in every stored view as a single step; arguments as for `feature_batches`."""
    inputs = np.concatenate([features[rows] for features, rows in views])
    repeated = np.tile(labels, len(views))
    return Batches(inputs[None], repeated[None], np.ones((1, len(repeated)), np.float32))


def chunks(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Pieces of `rows` `[m]`, all of one length, at most `size`; the last is padded: (piece, how many of it count)."""
    size = min(size, len(rows))
    for start in range(0, len(rows), size):
        piece = rows[start : start + size]
        yield np.resize(piece, size), len(piece)


def image_batches(
    images: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    plan: Plan,
    transform: Callable[[np.ndarray, jax.Array | None], jax.Array],
    *,
    view: int,
    seed: int,
) -> Iterator[Batches]:
    """An epoch made afresh from pictures, one step at a time, each picture in the same-numbered random view.

    Args:
      images: uint8 RGB `[n, size, size, 3]`.
      rows: `[m]` which of them train; `plan` counts in this order.
      labels: int32 `[m]`.
      transform: (uint8 `[batch, size, size, 3]`, keys `[batch]` or None) -> inputs `[batch, ...]`.
      view: 0 for clean pictures.
    """
    steps = len(plan.indices)
    for k, batch in enumerate(prefetch(lambda k: images[rows[plan.indices[k]]], steps, ahead=2)):
        chosen = plan.indices[k]
        keys = view_keys(seed, view, jnp.asarray(chosen)) if view else None
        yield Batches(transform(batch, keys)[None], labels[chosen][None], plan.weights[k][None])
