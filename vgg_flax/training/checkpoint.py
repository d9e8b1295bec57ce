"""The training state on disk: the latest, to go on from, and the best, to use. The only importer of orbax."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

policies = ocp.training.preservation_policies

T = TypeVar("T")
Metrics = Mapping[str, float]


def rank(metrics: Metrics) -> float:
    """Higher is better: validation accuracy first, lower loss among equals; never a number that is not finite.

    Accuracies differ by at least one picture in `val_count`, so a loss squeezed into [0, 1) pictures only breaks ties.
    """
    accuracy, loss = metrics["val_accuracy"], metrics["val_loss"]
    if not (math.isfinite(accuracy) and math.isfinite(loss)):
        return -math.inf
    return accuracy * metrics["val_count"] - loss / (1 + loss)


class Checkpoints:
    """Checkpoints of one run, numbered by epochs done. A checkpoint is there whole or not at all."""

    def __init__(self, folder: Path):
        best = policies.BestN(get_metric_fn=rank, n=1, keep_checkpoints_without_metrics=False)
        self._checkpointer: Any = ocp.training.Checkpointer(
            str(folder.resolve()),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(1), best]),  # type: ignore
            cleanup_tmp_directories=True,
        )

    def save(self, epochs: int, state: Any, metrics: Metrics) -> None:
        """Keep the state after `epochs` epochs; `metrics` holds val_accuracy, val_loss and val_count."""
        if not self._checkpointer.save(epochs, state, metrics=dict(metrics)):
            raise RuntimeError(f"checkpoint {epochs} was not written: one of a later epoch already exists.")

    @property
    def latest(self) -> int | None:
        """Epochs done in the newest checkpoint."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    @property
    def best(self) -> int | None:
        """Epochs done in the checkpoint that validation liked best; the earliest among equals."""
        kept = self._checkpointer.checkpoints
        return max(kept, key=lambda one: (rank(one.metrics), -one.step)).step if kept else None

    def restore(self, epochs: int, like: T) -> T:
        """The state after `epochs` epochs. like: a tree of the same structure, shapes and dtypes."""
        return self._checkpointer.load(epochs, jax.tree.map(_abstract, like))

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *exception: object) -> None:
        self._checkpointer.close()


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
