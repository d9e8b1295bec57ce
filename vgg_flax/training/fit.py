"""From a feed to a fitted head: by cross-validated regression, or by epochs of AdamW with the best one kept."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vgg_flax import console
from vgg_flax.answers.predictions import Predictions
from vgg_flax.answers.scores import accuracy, cross_entropy
from vgg_flax.ending import Stopped
from vgg_flax.errors import UserError
from vgg_flax.network.extract import Extractor, batch_size
from vgg_flax.network.heads import BLOCKS, HEADS
from vgg_flax.network.model import init_head
from vgg_flax.network.params import Params, combine
from vgg_flax.network.spec import Cut, ModelSpec, pooled_columns
from vgg_flax.training import regression
from vgg_flax.training.checkpoint import Checkpoints, Part, Unfinished
from vgg_flax.training.feed import Feed
from vgg_flax.training.runs import Run
from vgg_flax.training.task import Recipe, Task, learning_rate, standardization

Log = list[dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Fitted:
    """A trained network.

    Attributes:
      task: what it is and how it was trained; `spec` says the blocks that were chosen.
      params: the whole network's.
      log: a row an epoch; for regression a row an iteration.
      best_epoch: number of the row that was kept, from 1.
      folds: int64 `[photos]`, the fold that a picture was left out with, -1 where in none.
      out_of_fold: float32 `[photos, classes]`, logits of the model without that fold.
      chosen: what cross-validation chose, JSON types.
    """

    task: Task
    params: Params
    log: Log
    best_epoch: int
    folds: np.ndarray
    out_of_fold: np.ndarray
    chosen: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def spec(self) -> ModelSpec:
        """The network, with the blocks that were chosen."""
        return self.task.spec


def fit(run: Run, spec: ModelSpec, cut: Cut, backbone: Params, feed: Feed, check: Callable[[], None]) -> Fitted:
    """The head that the settings ask for. `check` may raise to stop; AdamW's epochs are in checkpoints by then."""
    if HEADS[run.settings.head].solver == "regression":
        return fit_regression(run, spec, cut, backbone, feed, check)
    return fit_epochs(run, spec, cut, backbone, feed, check)


def predict(fitted: Fitted, feed: Feed, check: Callable[[], None]) -> Predictions:
    """What the network says of every picture; of those that cross-validation left out, what it said without them."""
    photos = feed.photos
    logits = fitted.task.logits(fitted.params, feed, np.arange(len(photos)), check)
    left_out = fitted.folds >= 0
    logits[left_out] = fitted.out_of_fold[left_out]
    return Predictions.of(photos, logits, fitted.folds)


def averages(fitted: Fitted, feed: Feed) -> np.ndarray:
    """Averages of block 5 as the trained network sees each clean picture: float32 `[photos, channels]`."""
    backbone, own, count = fitted.spec.backbone, feed.store.extractor, len(feed.photos)
    columns = pooled_columns(backbone, (5,), ("average",))
    if fitted.task.cut.first_block > 5:
        return feed.pooled(np.arange(count))[:, columns]
    trained = Extractor(
        backbone, fitted.params["backbone"], own.preprocessing, engine=own.engine, precision=own.precision
    )
    size, parts = batch_size(own.preprocessing.image_size), [np.empty((0, len(columns)), np.float32)]
    for start in range(0, count, size):
        some = np.arange(start, min(start + size, count))
        pooled = trained(feed.photos.images[np.resize(some, size)])["pooled"]
        parts.append(np.asarray(pooled)[: len(some), columns])
    return np.concatenate(parts)


def fit_regression(
    run: Run, spec: ModelSpec, cut: Cut, backbone: Params, feed: Feed, check: Callable[[], None]
) -> Fitted:
    """Cross-validation chooses blocks and strength; one fit on training and validation pictures is kept."""
    settings, photos, fitted = run.settings, feed.photos, feed.fitted
    iterations = settings.optimizer.epochs or HEADS["regression"].epochs
    folds, apart = leave_out(feed)
    views = len(feed.views)
    pooled = np.concatenate([feed.pooled(fitted, view) for view in feed.views])
    data = {
        "labels": np.tile(photos.labels[fitted], views),
        "folds": np.tile(folds, views),
        "classes": spec.head.classes,
        "scored": np.arange(len(pooled)) < len(fitted),  # the clean pictures
        "apart": apart,
        "iterations": iterations,
        "check": check,
    }
    names = [settings.network.blocks] if settings.network.blocks != "auto" else ["5", "4-5", "3-5"]
    sets = {name: pooled_columns(spec.backbone, BLOCKS[name], spec.head.pools) for name in names}
    with console.counter("cross-validation: iterations") as advance:
        strength = settings.optimizer.weight_decay
        candidates = regression.choose(pooled, column_sets=sets, strength=strength, advance=advance, **data)
    best, start = candidates[0], time.monotonic()
    run.write_table("search.csv", regression.COLUMNS, [dataclasses.astuple(one) for one in candidates])
    with console.counter("fit of the chosen head: iterations") as advance:
        found = regression.fit(pooled[:, sets[best.columns]], strength=best.strength, advance=advance, **data)
    seconds = (time.monotonic() - start) / max(1, len(found.history))
    log = [_regression_row(i, row, len(pooled), seconds) for i, row in enumerate(found.history, 1)]
    run.write_log(log)
    console.show_choice(candidates, log[-1], len(log))
    out_of_fold = np.zeros((len(photos), spec.head.classes), np.float32)
    out_of_fold[fitted] = found.out_of_fold[: len(fitted)]
    all_folds = np.full(len(photos), -1, np.int64)
    all_folds[fitted] = folds
    spec = dataclasses.replace(spec, head=dataclasses.replace(spec.head, blocks=BLOCKS[best.columns]))
    task = Task(spec, cut, Recipe(len(log), 1.0, best.strength))
    chosen = {"blocks": best.columns, "strength": best.strength, "converged": found.converged}
    return Fitted(task, found.params(backbone), log, len(log), all_folds, out_of_fold, chosen)


def leave_out(feed: Feed) -> tuple[np.ndarray, int | None]:
    """(Fold of each fitted picture, int64 `[m]`; the number of the fold that is the user's own validation folder)."""
    photos, seed, count = feed.photos, feed.settings.split.seed, feed.settings.split.folds
    if not photos.own_val:
        return photos.folds(feed.fitted, count, seed), None
    folds = np.full(len(feed.fitted), count, np.int64)
    trains = photos.splits[feed.fitted] == "train"
    folds[trains] = photos.folds(feed.fitted[trains], count, seed)
    return folds, count


def _regression_row(iteration: int, row: dict[str, float], count: int, seconds: float) -> dict[str, float]:
    speed = count / max(seconds, 1e-9)
    return {"epoch": iteration, **row, "lr": 1.0, "images_per_second": speed, "seconds": seconds}


def fit_epochs(run: Run, spec: ModelSpec, cut: Cut, backbone: Params, feed: Feed, check: Callable[[], None]) -> Fitted:
    """AdamW, epoch by epoch, from the last checkpoint if there is one; the best epoch by validation is kept."""
    optimizer, kind, seed = run.settings.optimizer, HEADS[run.settings.head], run.settings.split.seed
    epochs = optimizer.epochs or kind.epochs
    decay = kind.weight_decay if optimizer.weight_decay is None else optimizer.weight_decay
    steps = epochs * math.ceil(len(feed.fitted) / optimizer.batch_size)
    task = Task(spec, cut, Recipe(steps, optimizer.lr or kind.lr, decay, optimizer.warmup))
    key, val = jax.random.key(seed), feed.photos.rows("val")
    if not len(val):
        raise UserError("no picture is left for validation: add photos, or use --head regression, which needs none.")
    state, frozen = task.init(_first_params(task, backbone, feed, key))
    folders = run.folder / "checkpoints", run.folder / "unfinished_epoch"
    with Checkpoints(folders[0]) as checkpoints, Unfinished(folders[1]) as unfinished:
        done = checkpoints.latest or 0
        log = run.read_log(done)
        if done:
            state = checkpoints.restore(done, state)
            console.say(f"going on after epoch {done} of {epochs}")
        for epoch in range(done, epochs):
            part, start = unfinished.begin(epoch, state), time.monotonic()
            logits = train_epoch(task, part, frozen, feed, val, key, unfinished, check)
            row, state = _row(task, part, logits, feed.photos.labels[val], time.monotonic() - start), part.state
            _refuse_infinite(row, task, checkpoints.best, run)
            log.append(row)
            run.write_log(log)  # before the checkpoint: resuming drops a row too many, but could not fill a gap
            checkpoints.save(epoch + 1, state, row | {"val_count": len(val)})
            unfinished.remove()
            console.show_epoch(row, epochs, best=checkpoints.best == epoch + 1, first=epoch == done)
            check()
        best = checkpoints.best
        assert best is not None
        trained = checkpoints.restore(best, state).params
    params = {"backbone": backbone, **combine(trained, frozen)}
    count, classes = len(feed.photos), spec.head.classes
    return Fitted(task, params, log, best, np.full(count, -1), np.zeros((count, classes), np.float32))


def _first_params(task: Task, backbone: Params, feed: Feed, key: jax.Array) -> Params:
    """A new head on the backbone; of a backbone that is not run in training, nothing."""
    head = init_head(task.spec, key)
    if task.spec.head.standardize:
        columns = pooled_columns(task.spec.backbone, task.spec.head.blocks, task.spec.head.pools)
        head["standardize"] = standardization(feed.pooled(feed.fitted)[:, columns])
    return {"head": head, "backbone": backbone} if task.cut.first_block <= 5 else {"head": head}


def train_epoch(
    task: Task,
    part: Part,
    frozen: Params,
    feed: Feed,
    val: np.ndarray,
    key: jax.Array,
    unfinished: Unfinished,
    check: Callable[[], None],
) -> np.ndarray:
    """Finish an epoch. Where a signal stops it, or a minute is over, the part that is done is kept.

    Args:
      part: the epoch as far as it is done; brought forward in place.
      val: rows of the validation pictures, int64 `[m]`.

    Returns:
      Logits of the validation pictures, float32 `[m, classes]`.
    """
    title, done = f"epoch {part.epoch + 1}", int(part.earlier)
    try:
        with console.bar(title, len(feed.fitted), done, summary=False) as advance:
            for batches in feed.epoch(part.epoch, part.steps):
                check()
                start = time.monotonic()
                part.state, sums = task.step(part.state, frozen, batches, key)
                part.totals = {name: part.totals[name] + float(sums[name]) for name in part.totals}
                part.steps += len(batches.labels)
                advance(int(sums["count"]))
                unfinished.save_if_due(part, upcoming=time.monotonic() - start)
        check()
        return task.logits(combine(part.state.params, frozen), feed, val, check)
    except Stopped:
        unfinished.save(part)
        raise


def _row(task: Task, part: Part, logits: np.ndarray, labels: np.ndarray, seconds: float) -> dict[str, float]:
    """A line of metrics.csv."""
    return {
        "epoch": part.epoch + 1,
        "train_loss": part.totals["loss"] / part.totals["count"],
        "train_accuracy": part.totals["correct"] / part.totals["count"],
        "val_loss": cross_entropy(logits, labels),
        "val_accuracy": accuracy(logits, labels),
        "lr": task.recipe.lr * float(_share(task.recipe, int(part.state.step) - 1)),
        "images_per_second": (part.totals["count"] - part.earlier) / seconds,
        "seconds": seconds,
    }


@functools.partial(jax.jit, static_argnums=0)
def _share(recipe: Recipe, step: jax.Array) -> jax.Array:
    return learning_rate(recipe, step)


def _refuse_infinite(row: dict[str, float], task: Task, best: int | None, run: Run) -> None:
    if not math.isfinite(loss := row["train_loss"] + row["val_loss"]):
        raise UserError(
            f"the loss is {loss} in epoch {row['epoch']}: try an --lr below {task.recipe.lr:g}. "
            f"The best checkpoint so far (epoch {best or 'none'}) is safe in {run.folder}."
        )
