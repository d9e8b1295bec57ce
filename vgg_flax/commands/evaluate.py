"""Measure a trained model on labelled photos that it has not learned from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg_flax import cli, console, ending
from vgg_flax.errors import UserError
from vgg_flax.files import new_folder, write_atomic
from vgg_flax.settings import EvaluateSettings

if TYPE_CHECKING:  # JAX takes seconds to import
    from vgg_flax.answers.predictions import Predictions
    from vgg_flax.answers.predictor import Predictor
    from vgg_flax.data.photos import Photos

SHOWN = 5  # names in a line


def main(settings: EvaluateSettings) -> None:
    """Ctrl-C and SIGTERM end it with one line; a folder is left behind only where all is measured."""
    with ending.listening() as check:
        try:
            folder = evaluate(settings, check)
            ending.last_steps.append(lambda: f"The results are whole: {folder}")
        except ending.Stopped as stopped:
            console.say(f"stopped by {stopped}: nothing was written.")
            raise SystemExit(stopped.code) from None


def evaluate(settings: EvaluateSettings, check: Callable[[], None]) -> Path:
    """Measure, write and show. Returns the folder."""
    from vgg_flax import report
    from vgg_flax.answers.predictor import Predictor
    from vgg_flax.insight import metrics, robust
    from vgg_flax.report import page

    predictor = Predictor.load(settings.model)
    photos, found = unseen_photos(settings, predictor, check)
    predictions = answers(photos, predictor, check)
    judge = predictor.bundle.judge
    results: dict[str, Any] = {"test": metrics.evaluate(predictions, judge)}
    if settings.robust:
        results["robust"] = robust.of_test(predictor, photos)
    check()
    folder = new_folder(settings.project, settings.name or "evaluate")
    record = {"model": str(settings.model), "data": settings.data, "photos": {**photos.found, **found}}
    predictions.save(folder / "predictions.npz")
    report.write_test(folder, photos, predictions, judge)
    doubts = metrics.warnings(predictions, results["test"])
    results |= record | {"warnings": [*photos.warnings, *doubts]}
    write_atomic(folder / "report.json", json.dumps(results, indent=2, ensure_ascii=False))
    page.write(folder, results, {}, predictions, judge, photos, predictor.bundle)
    for doubt in doubts:
        console.warn(doubt)
    console.show_results(results["test"], folder)
    return folder


def unseen_photos(
    settings: EvaluateSettings, predictor: Predictor, check: Callable[[], None]
) -> tuple[Photos, dict[str, int]]:
    """(The pictures that the model has not learned from, as its test, labels those of the model; what was left out).

    Raises:
      UserError: classes don't match, or no picture remains.
    """
    import numpy as np

    from vgg_flax.data import open_dataset
    from vgg_flax.data.photos import decoded_photos
    from vgg_flax.data.reading import look_at

    dataset = open_dataset(settings.data, label=settings.label)
    for line in dataset.notes:
        console.say(line)
    index_of = match_classes(dataset.classes, predictor.classes, settings.partial)
    with console.without_noise():
        photos = decoded_photos(dataset, look_at(dataset, check), predictor.preprocessing, check=check)
    for warning in photos.warnings:
        console.warn(warning)
    labels = np.array([index_of.get(name, -1) for name in photos.classes])[photos.labels]
    seen = predictor.bundle.judge.has_seen(photos.contents.tolist())
    if seen.any():
        known = console.counted(int(seen.sum()), "photo is", "photos are")
        console.say(f"{known} left out: {predictor.name} has learned from them")
    kept = np.flatnonzero(~seen & (labels >= 0))
    if not len(kept):
        raise UserError(
            f"nothing to measure on: {predictor.name} has learned from all {len(photos)} photos in {settings.data}, "
            "expected some that it has not seen."
        )
    splits = np.full(len(kept), "test")
    photos = dataclasses.replace(
        photos.only(kept), classes=predictor.classes, labels=labels[kept].astype(np.int32), splits=splits
    )
    return photos, {"left_out_as_seen": int(seen.sum()), "left_out_as_unknown": int((labels < 0).sum())}


def match_classes(theirs: tuple[str, ...], ours: tuple[str, ...], partial: bool) -> dict[str, int]:
    """{class of the data: its number in the model}.

    Raises:
      UserError: the names differ and `partial` is not set, or none is the same.
    """
    unknown, missing = sorted(set(theirs) - set(ours)), sorted(set(ours) - set(theirs))
    index_of = {name: ours.index(name) for name in theirs if name in ours}
    parts = []
    if unknown:
        meant = cli.nearest(unknown[0], missing).strip(". ")
        hint = f" ({meant[0].lower()}{meant[1:]})" if meant else ""
        parts.append(f"classes that the model does not know: {_listed(unknown)}{hint}")
    if missing:
        parts.append(f"no photos of the model's {_listed(missing)}")
    if not index_of or (parts and not partial):
        hint = "" if not index_of else " --partial goes on with the others."
        raise UserError(f"{'; '.join(parts)}. Classes are matched by name, expected {_listed(ours)}.{hint}")
    for part in parts:
        console.warn(part)
    return index_of


def _listed(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def answers(photos: Photos, predictor: Predictor, check: Callable[[], None]) -> Predictions:
    """What the model says of every picture; features are found again where they are known."""
    import numpy as np

    from vgg_flax.answers.predictions import Predictions
    from vgg_flax.network.extract import NO_CHANGE, batch_size
    from vgg_flax.store import FeatureStore

    store = FeatureStore(predictor.extractor, NO_CHANGE, 0)
    store.fill(photos.images, photos.contents, 0, check)
    size, parts = batch_size(predictor.preprocessing.image_size), []
    for start in range(0, len(photos), size):
        contents = photos.contents[start : start + size]
        parts.append(predictor.answer({name: store.rows(name, contents)[:] for name in predictor.extractor.shapes}))
    logits, averages = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Predictions.of(photos, logits).compared(predictor.bundle.judge, averages)
