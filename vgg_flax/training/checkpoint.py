"""The training state on disk: the latest, to go on from, and the best, to use. The only importer of orbax."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
from orbax.checkpoint import v1 as ocp

from vgg_flax import ending

INTERVAL = 60.0  # seconds of work that are lost at most
FULL = ("No space left", "RESOURCE_EXHAUSTED", "File too large", "Disk quota exceeded")  # as orbax's engine says it
MARGIN = 2**18  # bytes, for what orbax writes beside the arrays
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
        self._folder = folder
        self._checkpointer = _open(folder, policies.AnyPreservationPolicy([policies.LatestN(1), best]))  # type: ignore

    def save(self, epochs: int, state: Any, metrics: Metrics) -> None:
        """Keep the state after `epochs` epochs; `metrics` holds val_accuracy, val_loss and val_count."""
        if not _save(self._checkpointer, self._folder, epochs, state, metrics):
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
        _close(self._checkpointer)


@dataclasses.dataclass
class Part:
    """An epoch that is under way.

    Attributes:
      epoch: its number, from 0.
      state: the training state after `steps` of its steps.
      steps: how many are done.
      totals: sums over the pictures seen in them: `loss`, `correct`, `count`.
      earlier: how many of those pictures an earlier process has seen.
    """

    epoch: int
    state: Any
    steps: int = 0
    totals: dict[str, float] = dataclasses.field(default_factory=lambda: {"loss": 0.0, "correct": 0.0, "count": 0.0})
    earlier: float = 0.0


class Unfinished:
    """The epoch that is under way, on disk: about once a minute, and when a signal comes. Removed when it is done."""

    def __init__(self, folder: Path):
        self._folder, self._checkpointer, self._last = folder, None, time.monotonic()

    def begin(self, epoch: int, state: Any) -> Part:
        """The epoch as far as it was saved, or its beginning."""
        self._last, part = time.monotonic(), Part(epoch, state)
        if not self._folder.exists():
            return part
        saved = self._open().checkpoints
        kept = dict(saved[-1].metrics) if saved else {}
        if kept.pop("epoch", -1) != epoch:  # killed between the end of an epoch and the removal
            self.remove()
            return part
        steps, like = int(kept.pop("steps")), jax.tree.map(_abstract, state)
        return Part(epoch, self._open().load(saved[-1].step, like), steps, kept, kept["count"])

    def save(self, part: Part) -> None:
        """Keep it, instead of what was kept before."""
        record = part.totals | {"epoch": part.epoch, "steps": part.steps}
        checkpointer, number = self._open(), int(part.state.step)
        if checkpointer.latest is None or checkpointer.latest.step < number:
            _save(checkpointer, self._folder, number, part.state, record)
        self._last = time.monotonic()

    def save_if_due(self, part: Part, upcoming: float) -> None:
        """Keep it if more than INTERVAL would be lost within the next `upcoming` seconds."""
        if time.monotonic() - self._last + upcoming > INTERVAL:
            self.save(part)

    def remove(self) -> None:
        """The epoch has a checkpoint of its own."""
        self.__exit__()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _open(self) -> Any:
        if self._checkpointer is None:
            self._checkpointer = _open(self._folder, policies.LatestN(1))
        return self._checkpointer

    def __enter__(self) -> Unfinished:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._checkpointer is not None:
            _close(self._checkpointer)
        self._checkpointer = None


def _open(folder: Path, policy: Any) -> Any:
    return ocp.training.Checkpointer(str(folder.resolve()), preservation_policy=policy, cleanup_tmp_directories=True)


def _close(checkpointer: Any) -> None:
    with contextlib.suppress(OSError, ValueError):  # of a save that failed, which has been said
        checkpointer.close()


def _save(checkpointer: Any, folder: Path, number: int, state: Any, metrics: Metrics) -> bool:
    """Raises OSError where the disk is full; orbax, asked first, would print a screen for each of its threads."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
    if sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + MARGIN > shutil.disk_usage(folder).free:
        raise full
    log = logging.getLogger("absl")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what fails is raised, too, so it stays so then
    try:
        with ending.saving():
            saved = checkpointer.save(number, state, metrics=dict(metrics))
        log.setLevel(level)
        return saved
    except (OSError, ValueError) as error:
        for unfinished in folder.glob("*.orbax-checkpoint-tmp"):
            shutil.rmtree(unfinished, ignore_errors=True)
        if any(words in str(error) for words in FULL):
            raise full from None
        raise


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
