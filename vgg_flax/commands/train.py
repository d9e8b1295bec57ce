"""Train a classifier on your photos: ImageNet VGG features, a new head, an honest evaluation.

python train.py                          # handwritten digits, built in
python train.py --data photos/           # one folder per class, or train/ val/ test/ with a folder per class
python train.py --data tfds:tf_flowers   # TensorFlow Datasets
"""

from __future__ import annotations

from vgg_flax.answers.scores import cross_entropy, fit_temperature
from vgg_flax.cli import fail, parse
from vgg_flax.errors import UserError
from vgg_flax.network.spec import BACKBONES, HeadSpec, ModelSpec
from vgg_flax.settings import SPLITS, TrainSettings

if __name__ == "__main__":
    CONFIG = parse(TrainSettings, __doc__)  # --help and typing mistakes are answered before JAX is imported

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

import weights_convert
from vgg_flax import console, grid
from vgg_flax.answers import bundle
from vgg_flax.compilation import keep_compiled_programs
from vgg_flax.data import open_dataset
from vgg_flax.data.photos import load_pictures
from vgg_flax.data.split import assign_splits
from vgg_flax.insight import metrics as evaluate
from vgg_flax.network import augment, model, params
from vgg_flax.network.extract import Extractor, batch_size
from vgg_flax.network.preprocess import normalize
from vgg_flax.network.spec import Preprocessing
from vgg_flax.store import extract_view
from vgg_flax.training import feed as batches
from vgg_flax.training import runs
from vgg_flax.training import task as training
from vgg_flax.training.checkpoint import Checkpoints

HIDDEN = {"linear": (), "logreg": (), "mlp": (256,), "notebook": (4096, 4096)}


def train(run: runs.Run, check: Callable[[], None]) -> None:
    """One run from top to bottom. `check` raises runs.Stopped once Ctrl-C or SIGTERM has come."""
    config, clock = run.config, Clock()

    # Data: files -> uint8 pictures -> splits.
    with clock("data"):
        dataset = open_dataset(config.data)
        pictures = load_pictures(dataset, Preprocessing(config.size), strict=config.strict, check=check)
        names = [dataset.names[i] for i in pictures.kept]
        labels = dataset.labels[pictures.kept]
        own_splits = dataset.own_splits[pictures.kept]
        splits = assign_splits(labels, own_splits, pictures.contents, dataset.classes, config)
        rows = {split: np.flatnonzero(splits == split) for split in SPLITS}
        train_labels = labels[rows["train"]]
    console.show_data(dataset.classes, labels, splits, pictures.bad)
    console.say(f"run: {run.folder}")

    # Weights: ImageNet's convolutions.
    with clock("weights"):
        choices = config.choices()
        spec = make_spec(config if len(choices) > 1 else config.chosen(choices[0]), len(dataset.classes))
        weights = load_weights(config, spec)
        preprocessing = dataclasses.replace(weights.preprocessing, image_size=config.size)
    run.write_config(
        pictures.digest, params.digest(weights.backbone), {"weights": weights.source, "random_weights": weights.random}
    )
    run.write_table(
        "split.csv", ("file", "split", "label"), zip(names, splits, np.take(dataset.classes, labels), strict=True)
    )
    run.write_table("bad_files.csv", ("file", "reason"), pictures.bad)

    # Features: each picture through the frozen layers, clean, and in random views of the training pictures.
    inputs = training.INPUTS[config.unfreeze]
    with clock("features"):
        output = "block4" if inputs == "block4" else "features"
        extractor = Extractor(spec, weights.backbone, preprocessing, config.engine, output)
        extract = functools.partial(
            extract_view, extractor, pictures, seed=config.seed, config=config.augment, check=check
        )
        clean = extract(np.arange(len(labels)), view=0)
        stored = range(1, config.views) if config.cache == "features" else ()
        views = [(clean, rows["train"])]
        views += [(extract(rows["train"], view=view), np.arange(len(train_labels))) for view in stored]
        constants = {}
        if spec.head.standardize:
            maps = inputs == "block4"
            read = read_maps(spec, weights, clean, rows["train"], check) if maps else clean[rows["train"]]
            constants = training.standardization(read)

    def plan(epoch: int) -> batches.Plan:
        return batches.plan_epoch(len(train_labels), config.batch_size, len(views), config.seed, epoch)

    def stored_batches(epoch: int) -> Iterator[batches.Batches]:
        if config.head == "logreg":
            return iter([batches.all_at_once(views, train_labels)])
        return batches.feature_batches(views, train_labels, plan(epoch))

    # Search: many heads at once on the stored features; validation picks what the settings leave open.
    solver = "lbfgs" if config.head == "logreg" else "adamw"
    steps = config.passes * math.ceil(len(train_labels) / config.batch_size)
    key = jax.random.key(config.seed)
    results = []
    if len(choices) > 1:
        with clock("search"):
            recipe = training.Recipe(spec, steps, config.warmup, solver=solver)
            results = grid.search(
                recipe, choices, constants, config.passes, stored_batches,
                clean[rows["val"]], labels[rows["val"]], check,
            )  # fmt: skip
        run.write_table("search.csv", grid.COLUMNS, [result.row() for result in results])
        console.show_search(results)
    choice = results[0].choice if results else choices[0]
    config = config.chosen(choice)
    extracted, spec = spec, make_spec(config, len(dataset.classes))
    columns = model.feature_columns(extracted, spec.head.features)

    def pick(stored: Any) -> Any:
        return stored if len(columns) == extracted.head_inputs else stored[:, columns]

    clean, views = pick(clean), [(pick(stored), index) for stored, index in views]

    # Head: what is trained, what stays, and where each epoch's batches come from.
    head = model.init_head(spec, key)
    if constants:
        head["standardize"] = {name: values[columns] for name, values in constants.items()}
    network = {"backbone": weights.backbone, "head": head}
    trainable, frozen = params.partition(network, training.TRAINABLE[config.unfreeze])

    def fresh(images: np.ndarray, keys: jax.Array | None) -> jax.Array:
        if inputs == "images":
            return normalize(augment.augment(images, keys, config.augment), preprocessing)
        return pick(extractor(images, keys, config.augment))

    def epoch_batches(epoch: int) -> Iterator[batches.Batches]:
        if config.cache == "features":
            return stored_batches(epoch)
        view = epoch if config.views > 1 else 0
        images, chosen = pictures.images, rows["train"]
        return batches.image_batches(images, chosen, train_labels, plan(epoch), fresh, view=view, seed=config.seed)

    def logits(trained: params.Params, split: str) -> np.ndarray:
        whole, parts = params.combine(trained, frozen), []
        for chunk, count in batches.chunks(rows[split], batch_size(config.size)):
            some = fresh(pictures.images[chunk], None) if inputs == "images" else clean[chunk]
            features = training.head_features(spec, inputs, whole, some)
            parts.append(np.asarray(training.head_logits(spec, whole["head"], features))[:count])
        return np.concatenate(parts)

    # Epochs, and the best of them.
    with clock("training"):
        recipe = training.Recipe(spec, steps, config.warmup, inputs, solver)
        state = training.init_state(recipe, trainable, choice.lr, choice.weight_decay)
        best, best_epoch, log = fit(
            run, config, recipe, state, frozen, epoch_batches,
            lambda trained: (logits(trained, "val"), labels[rows["val"]]), check,
        )  # fmt: skip

    # Evaluation, on pictures that nothing above has looked at.
    with clock("evaluation"):
        scores = {split: logits(best, split) for split in ("val", "test")}
        temperature = fit_temperature(scores["val"], labels[rows["val"]])
        results = {
            split: evaluate.evaluate(scores[split], labels[rows[split]], dataset.classes, temperature)
            for split in ("test", "val")
        }
        wrong = evaluate.mistakes(scores["test"], labels[rows["test"]], temperature)

    # What the run leaves behind.
    with clock("report"):
        from vgg_flax.report import pictures as report  # matplotlib is slow to import

        whole = params.combine(best, frozen)
        record = {"data": config.data, "weights": weights.source, "random_weights": weights.random}
        record |= {
            "chosen": dataclasses.asdict(choice),
            "best_epoch": best_epoch,
            "temperature": temperature,
            "train": evaluate.supports(train_labels, dataset.classes),
        }
        trained = {**record, "settings": runs.settings(config), "test": results["test"], "val": results["val"]}
        bundle.save(
            bundle.Bundle(spec, whole, dataset.classes, preprocessing, temperature, trained), run.folder / "model"
        )
        report.draw_curves(log, best_epoch, run.folder / "curves.png")
        matrix = results["test"]["confusion_matrix"]
        report.draw_confusion(matrix, dataset.classes, run.folder / "confusion_matrix.png", normalize=False)
        report.draw_confusion(matrix, dataset.classes, run.folder / "confusion_matrix_normalized.png", normalize=True)
        sheet = [(rows["test"][i], dataset.classes[guess], probability) for i, guess, probability in wrong[:24]]
        report.draw_mistakes(
            [(pictures.images[i], names[i], dataset.classes[labels[i]], guess, p) for i, guess, p in sheet],
            len(wrong), len(rows["test"]), run.folder / "mistakes.png",
        )  # fmt: skip
    run.write_report({**results, **record, "timings": clock.seconds})
    console.show_results(results["test"], run.folder)


def fit(
    run: runs.Run,
    config: TrainSettings,
    recipe: training.Recipe,
    state: training.State,
    frozen: params.Params,
    epoch_batches: Callable[[int], Iterator[batches.Batches]],
    validate: Callable[[params.Params], tuple[np.ndarray, np.ndarray]],
    check: Callable[[], None],
) -> tuple[params.Params, int, list[dict[str, float]]]:
    """Train epoch by epoch, from the last checkpoint if there is one.

    Returns:
      Trained parameters of the best epoch, its number (from 1), and the log, a row an epoch.
    """
    key, count = jax.random.key(config.seed), int(np.ceil(recipe.steps / config.passes)) * config.batch_size
    share = jax.jit(functools.partial(training.learning_rate, recipe))
    with Checkpoints(run.folder / "checkpoints") as checkpoints, runs.EventLog(run.folder) as events:
        done = checkpoints.latest or 0
        log = run.read_log(done)
        if done:
            state = checkpoints.restore(done, state)
            console.say(f"going on after epoch {done} of {config.passes}")
        for epoch in range(done, config.passes):
            start, totals = time.monotonic(), {"loss": 0.0, "correct": 0.0, "count": 0.0}
            with console.bar(f"epoch {epoch + 1}", count, summary=False) as advance:
                for some in epoch_batches(epoch):
                    state, sums = training.train_steps(recipe, state, frozen, some, key)
                    totals = {name: totals[name] + float(sums[name]) for name in totals}
                    advance(int(sums["count"]))
                    check()
            val_logits, val_labels = validate(state["params"])
            seconds = time.monotonic() - start
            row = {
                "epoch": epoch + 1,
                "train_loss": totals["loss"] / totals["count"],
                "train_accuracy": totals["correct"] / totals["count"],
                "val_loss": cross_entropy(val_logits, val_labels),
                "val_accuracy": float((val_logits.argmax(-1) == val_labels).mean()),
                "lr": float(state["lr"]) * float(share(int(state["step"]) - 1)),
                "images_per_second": totals["count"] / seconds,
                "seconds": seconds,
            }
            if not math.isfinite(loss := row["train_loss"] + row["val_loss"]):
                raise UserError(
                    f"the loss is {loss} in epoch {epoch + 1}: try an --lr below {float(state['lr']):g}. "
                    f"The best checkpoint so far (epoch {checkpoints.best or 'none'}) is safe in {run.folder}."
                )
            log.append(row)
            run.write_log(log)  # before the checkpoint: resuming drops a row too many, but could not fill a gap
            checkpoints.save(epoch + 1, state, row | {"val_count": len(val_labels)})
            events.write(row)
            console.show_epoch(row, config.passes, best=checkpoints.best == epoch + 1)
            check()
        if len(np.unique(validate(state["params"])[0].argmax(-1))) == 1:
            console.warn("the model gives every validation picture the same label: try a lower --lr or more epochs.")
        best_epoch = checkpoints.best
        assert best_epoch is not None
        return checkpoints.restore(best_epoch, state)["params"], best_epoch, log


def make_spec(config: TrainSettings, classes: int) -> ModelSpec:
    """The network that the settings describe."""
    notebook = config.head == "notebook"
    head = HeadSpec(
        classes=classes,
        features="flatten" if notebook else ("all" if config.features == "auto" else config.features),
        hidden=HIDDEN[config.head],
        dropout=config.dropout,
        standardize=not notebook,
    )
    return ModelSpec(BACKBONES[config.model], head, config.size, config.precision)


def load_weights(config: TrainSettings, spec: ModelSpec) -> weights_convert.Weights:
    """The backbone that `--weights` names."""
    if config.weights != "random":
        try:
            return weights_convert.load(config.weights, spec.backbone, say=console.say)
        except weights_convert.WeightsUnavailable as error:
            if config.data != "digits":
                raise
            console.warn(f"{error} Going on with RANDOM weights: the accuracy will say little about the real thing.")
    backbone = jax.tree.map(np.asarray, model.init_backbone(spec, jax.random.key(config.seed)))
    return weights_convert.Weights(backbone, None, Preprocessing(config.size), "random", random=True)


def read_maps(
    spec: ModelSpec,
    weights: weights_convert.Weights,
    maps: np.ndarray,
    rows: np.ndarray,
    check: Callable[[], None],
) -> np.ndarray:
    """What the head reads of stored block4 outputs before anything is trained: float32 `[len(rows), head_inputs]`."""
    parts, network = [], jax.device_put({"backbone": weights.backbone})
    with console.bar("block5 of the training pictures", len(rows)) as advance:
        for chunk, count in batches.chunks(rows, batch_size(spec.image_size)):
            parts.append(np.asarray(training.head_features(spec, "block4", network, maps[chunk]))[:count])
            advance(count)
            check()
    return np.concatenate(parts)


class Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - start, 3)


def main(config: TrainSettings) -> None:
    """Open the run, train, and turn what a person can mend into one line."""
    interrupt = runs.Interrupt()
    keep_compiled_programs()
    try:
        with interrupt.listening(), runs.open_run(config) as run:
            train(run, interrupt.check)
    except runs.Stopped as stopped:
        console.say(f"stopped by {stopped}. {run.how_to_go_on()}")
        raise SystemExit(stopped.code) from None
    except UserError as error:
        fail(error)


if __name__ == "__main__":
    main(CONFIG)
