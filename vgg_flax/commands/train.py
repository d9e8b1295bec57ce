"""One run from top to bottom: weights, photos, features, a head, predictions, and what is left behind."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg_flax import console, ending
from vgg_flax.cache import cache_dir
from vgg_flax.files import sweep
from vgg_flax.settings import TrainSettings, from_flat, to_flat
from vgg_flax.training import opening, runs

if TYPE_CHECKING:  # JAX takes seconds to import, and the run folder comes first
    from vgg_flax.answers.bundle import Bundle
    from vgg_flax.answers.judge import Judge
    from vgg_flax.answers.predictions import Predictions
    from vgg_flax.data.photos import Photos
    from vgg_flax.network.extract import Extractor
    from vgg_flax.network.spec import BackboneSpec, Cut, ModelSpec
    from vgg_flax.training.feed import Feed
    from vgg_flax.training.fit import Fitted
    from weights_convert import Weights


def main(settings: TrainSettings, typed: opening.Typed) -> None:
    """Open the run and train; Ctrl-C and SIGTERM end it in order, with a line that says how to go on.

    Args:
      typed: see `opening.open_run`.
    """
    with opening.open_run(settings, typed) as run:
        importlib.import_module("vgg_flax.training.fit")  # seconds, in which a signal ends the program at once
        try:
            with ending.listening() as check:
                train_run(run, check)
        except ending.Stopped as stopped:
            console.say(f"stopped by {stopped}. {run.leave()}")
            raise SystemExit(stopped.code) from None


def train(**options: Any) -> Path:
    """Train as `vgg-flax train` does, `train(data="photos/", views=2)`, and return the run's folder.

    Raises:
      UserError: something that the caller can fix.
      ending.Stopped: a signal came.
    """

    def typed(default: TrainSettings) -> TrainSettings:
        return from_flat(TrainSettings, to_flat(default) | options)

    with opening.open_run(typed(TrainSettings()), typed) as run, ending.listening() as check:
        train_run(run, check)
        return run.folder


def train_run(run: runs.Run, check: Callable[[], None]) -> None:
    """The story of a run. `check` raises Stopped once Ctrl-C or SIGTERM has come."""
    from vgg_flax.compilation import keep_compiled_programs
    from vgg_flax.data import photos as data
    from vgg_flax.insight import checkup, metrics
    from vgg_flax.network.spec import BACKBONES, CUTS
    from vgg_flax.store import FeatureStore
    from vgg_flax.training import fit
    from vgg_flax.training.feed import Feed

    sweep(cache_dir())
    keep_compiled_programs()
    settings, clock = run.settings, runs.Clock()
    cut = CUTS[settings.network.unfreeze]

    with clock("weights"):  # first: what can fail at once fails before a photo is read
        weights = load_weights(settings, BACKBONES[settings.network.model])
        check()
    with clock("data"):
        with console.without_noise():
            photos, size = data.load(settings, check)
        say_what_was_found(photos)
        run.start(photos, weights, _device())
        check()
    with clock("features"):
        spec, extractor = make_network(settings, weights, cut, size, len(photos.classes))
        store = FeatureStore(extractor, settings.augmentation, settings.split.seed)
        feed = Feed(photos, store, cut.stored(spec.head), settings)
        feed.fill(check)
        check()
    with clock("training"):
        fitted = fit.fit(run, spec, cut, weights.backbone, feed, check)
        check()
    with clock("evaluation"):
        predictions = fit.predict(fitted, feed, check)
        judge = predictions.judge(settings.answer.min_precision)
        judge, predictions = with_photos(judge, predictions, fitted, feed)
        results = metrics.evaluate_run(predictions, judge)
        found = checkup.check_run(photos, predictions, judge)
        check()
    with clock("report"):
        model, record = leave_behind(run, weights, feed, fitted, predictions, judge, results)
        run.tracker.finish(results, {path.stem: path for path in sorted(run.folder.glob("*.png"))})
        check()
    doubts = metrics.warnings(predictions, results["test"])
    record |= {"photos": photos.found, "warnings": [*photos.warnings, *doubts], "doctor": found}
    computed = {"decoded": photos.decoded, "rows": store.computed}
    told = {**results, **record, "computed": computed, "timings": clock.seconds}
    with clock("page"):
        write_page(run, told, photos, fitted, predictions, model)
    run.write_report(told)  # last: it says that the run is finished
    for doubt in doubts:
        console.warn(doubt)
    console.say(checkup.in_one_line(found, settings.data))
    console.show_results(results["test"], run.folder)
    console.show_live(run.folder)
    if doubts:
        console.show_line(f"warning: {'; '.join(doubt.partition(': ')[0] for doubt in doubts)}")  # what is read last
    check()


def say_what_was_found(photos: Photos) -> None:
    """Copies and doubts, a line each; then the classes and their splits."""
    for note in photos.notes:
        console.say(note)
    for warning in photos.warnings:
        console.warn(warning)
    console.show_data(photos.classes, photos.labels, photos.splits, photos.bad)


def make_network(
    settings: TrainSettings, weights: Weights, cut: Cut, size: int, classes: int
) -> tuple[ModelSpec, Extractor]:
    """(The network that the settings describe, its frozen layers as a function)."""
    from vgg_flax.network.extract import Extractor
    from vgg_flax.network.heads import head_spec
    from vgg_flax.network.spec import BACKBONES, ModelSpec

    network = settings.network
    spec = ModelSpec(BACKBONES[network.model], head_spec(settings, classes), size, network.precision)
    extractor = Extractor(
        spec.backbone,
        weights.backbone,
        dataclasses.replace(weights.preprocessing, image_size=size, region=settings.region),
        engine=network.engine,
        precision=network.precision,
        outputs=tuple(sorted({"pooled", cut.stored(spec.head)} - {"images"})),
    )
    return spec, extractor


def with_photos(judge: Judge, predictions: Predictions, fitted: Fitted, feed: Feed) -> tuple[Judge, Predictions]:
    """Both, knowing the photos that the model has learned from, as the network sees them once it is trained."""
    from vgg_flax.answers import judge as judges
    from vgg_flax.training import fit

    photos, rows = feed.photos, feed.fitted
    averages = fit.averages(fitted, feed)
    seen = b"".join(sorted({bytes.fromhex(content) for content in photos.contents[photos.rows("train", "val")]}))
    judge = judges.with_references(judge, averages[rows], photos.labels[rows], [photos.names[i] for i in rows])
    return dataclasses.replace(judge, seen=seen), predictions.compared(judge, averages)


def leave_behind(
    run: runs.Run,
    weights: Weights,
    feed: Feed,
    fitted: Fitted,
    predictions: Predictions,
    judge: Judge,
    results: dict[str, Any],
) -> tuple[Bundle, dict[str, Any]]:
    """Write bundle, predictions and pictures. Returns (the bundle, what the report says beside the results)."""
    from vgg_flax import report
    from vgg_flax.answers import bundle
    from vgg_flax.answers.predictor import Predictor
    from vgg_flax.insight import metrics, robust

    preprocessing, photos = feed.store.extractor.preprocessing, feed.photos
    record = {
        "data": run.settings.data,
        "weights": weights.source,
        "random_weights": weights.random,
        "image_size": preprocessing.image_size,
        "chosen": fitted.chosen,
        "best_epoch": fitted.best_epoch,
        "judge": bundle.measured(judge),
        "train": metrics.supports(predictions.select("train")),
    }
    training = {**record, **results, "settings": run.kept_settings()}
    model = bundle.Bundle(fitted.spec, fitted.params, photos.classes, preprocessing, judge, training)
    bundle.save(model, run.folder / "model")
    if run.settings.answer.robust:
        record["robust"] = robust.of_test(Predictor(model), photos)
    predictions.save(run.folder / "predictions.npz")
    report.write(run.folder, run.settings, photos, predictions, judge, fitted.log, fitted.best_epoch)
    return model, record


def write_page(
    run: runs.Run, told: dict[str, Any], photos: Photos, fitted: Fitted, predictions: Predictions, model: Bundle
) -> None:
    """report.html. told: what report.json says."""
    import yaml

    from vgg_flax.report import page

    config = yaml.safe_load((run.folder / "config.yaml").read_text(encoding="utf-8"))
    page.write(run.folder, told, config, predictions, model.judge, photos, model, log=fitted.log)


def _device() -> str:
    import jax

    return f"{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})"


def load_weights(settings: TrainSettings, backbone: BackboneSpec) -> Weights:
    """The backbone that `--weights` names, `random` drawn here."""
    import jax
    import numpy as np

    import weights_convert
    from vgg_flax.network.model import init_backbone
    from vgg_flax.network.spec import Preprocessing

    if settings.weights != "random":
        try:
            return weights_convert.load(settings.weights, backbone, say=console.say)
        except weights_convert.WeightsUnavailable as error:
            if settings.data != "digits":
                raise
            console.warn(f"{error} Going on with RANDOM weights: the accuracy will say little about the real thing.")
    drawn = jax.tree.map(np.asarray, init_backbone(backbone, jax.random.key(settings.split.seed)))
    return weights_convert.Weights(drawn, Preprocessing(224), "random", random=True)
