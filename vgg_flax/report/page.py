"""report.html: a run on one page that opens from disk. The report's only importer of jinja2.

All text comes through the template's escaping, and what the script reads is JSON: names of classes and files are data.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape

from vgg_flax.answers import bundle as bundles
from vgg_flax.answers.bundle import Bundle
from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictions import Predictions
from vgg_flax.data.photos import Photos
from vgg_flax.files import write_atomic
from vgg_flax.insight import metrics
from vgg_flax.report import charts, closely, thumbnails
from vgg_flax.report.album import Album

NOTHING, SPACE = "\N{EN DASH}", "\N{NARROW NO-BREAK SPACE}"
NAME, BESIDE = "report.html", "report_files"
IN_PAGE = 600  # test photos whose thumbnails the page itself carries; of more, they are on sheets beside it
MOST_SHOWN = 20_000  # test photos that can be opened; mistakes and the least sure first


def write(
    folder: Path,
    report: dict[str, Any],
    config: dict[str, Any],
    predictions: Predictions,
    judge: Judge,
    photos: Photos | None,
    bundle: Bundle | None,
    missing: str = "",
    log: Sequence[Mapping[str, float]] = (),
) -> Path:
    """Write a run's page, and beside it the sheets of thumbnails where there are many photos.

    Args:
      folder: of the run.
      report: what report.json holds.
      config: what config.yaml holds; of an evaluation nothing.
      predictions: of all splits that there are.
      judge: of the model; what it knows of the photos is not needed.
      photos: of the run; None where they are gone.
      bundle: for heat maps; None goes without.
      missing: why there are no pictures, in a line.
      log: rows of metrics.csv; of an evaluation none.

    Returns:
      The page's path.
    """
    album = Album(photos, predictions) if photos is not None else None
    probabilities = judge.probabilities(predictions.logits)
    verdicts = judge.verdicts(probabilities, predictions.familiarity)
    mistakes, unsure = closely.choose(predictions, probabilities)
    close = closely.look(np.concatenate([mistakes, unsure]), predictions, probabilities, verdicts, album, bundle)
    test, figures = predictions.splits == "test", report["test"]
    matrix = np.array(figures["confusion_matrix"], np.int64)
    classes = [str(name) for name in predictions.classes]
    text = render(
        "page.html.jinja",
        title=f"Report: {folder.name}",
        run=folder.name,
        report=report,
        config=config,
        settings=config.get("settings", {}),
        judge=bundles.measured(judge),
        classes=classes,
        counts={split: int((predictions.splits == split).sum()) for split in ("train", "val", "test")},
        missing=missing,
        wrong=figures["count"] - int(np.trace(matrix)),
        confusion=charts.confusion(classes, matrix),
        per_class=charts.per_class(figures, matrix),
        bins=charts.reliability(figures["reliability"], metrics.BINS),
        coverage=charts.coverage(probabilities[test], predictions.labels[test], figures["judged"], judge.min_precision),
        curves=charts.curves(log, report.get("best_epoch", 0)),
        step="iteration" if report.get("chosen") else "epoch",
        mistakes=close[: len(mistakes)],
        unsure=close[len(mistakes) :],
        doctor=closely.doubted(report.get("doctor", {}), predictions, album),
        data=_opened(folder, predictions, probabilities, album),
    )
    write_atomic(folder / NAME, text)
    return folder / NAME


def render(template: str, **values: Any) -> str:
    """A template of this folder, filled; every value is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"percent": percent, "plain": plain, "soft": soft}
    script = _source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    own = {"style": Markup(_source("page.css")), "script": Markup(script), "script_digest": digest}
    return environment.get_template(template).render(**own, **values)


def percent(share: float | None, digits: int = 1) -> str:
    """0.987 -> `98.7 %`, with a space that does not break; a dash where nothing was measured."""
    return NOTHING if share is None else f"{share:.{digits}%}".replace("%", f"{SPACE}%")


def soft(name: str) -> Markup:
    """A name, escaped, that may be broken after each underscore and slash."""
    return Markup("<wbr>").join(map(escape, re.split("(?<=[_/])", name)))


def plain(value: Any) -> str:
    """A setting in words."""
    if value is None or value in ({}, []):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {plain(one)}" for name, one in value.items())
    return ", ".join(map(plain, value)) if isinstance(value, list | tuple) else str(value)


def _source(name: str) -> str:
    return resources.files("vgg_flax.report").joinpath("templates", name).read_text(encoding="utf-8")


def _opened(folder: Path, predictions: Predictions, probabilities: np.ndarray, album: Album | None) -> dict[str, Any]:
    """What the page's script reads: the test photos cell by cell, and their thumbnails or the sheets these are on."""
    test = np.flatnonzero(predictions.splits == "test")
    said, confidence = probabilities[test].argmax(1), probabilities[test].max(1)
    truth = predictions.labels[test]
    first = np.lexsort((confidence, said == truth))[:MOST_SHOWN]
    order = first[np.lexsort((confidence[first], said[first], truth[first]))]  # a cell's lie on few sheets
    there = album.has(test[order]) if album else np.zeros(len(order), bool)
    place = np.where(there, np.cumsum(there) - 1, -1)
    shutil.rmtree(folder / BESIDE, ignore_errors=True)
    thumbs, sheets, shapes = [], [], []
    if album:
        pictures = _noting_shapes((album.small(int(test[i])) for i in order[there]), shapes)
        if there.sum() <= IN_PAGE:
            thumbs = [thumbnails.data_uri(picture) for picture in pictures]
        else:
            sheets = [f"{BESIDE}/{name}" for name in thumbnails.write_sheets(pictures, folder / BESIDE)]
    rows = [
        [str(predictions.names[test[i]]), int(truth[i]), int(said[i]), round(100 * float(confidence[i]), 1), int(p)]
        for i, p in zip(order, place, strict=True)
    ]
    return {
        "classes": [str(name) for name in predictions.classes],
        "photos": rows,
        "thumbs": thumbs,
        "sheets": sheets,
        "shapes": shapes,
        "side": thumbnails.SIDE,
        "across": thumbnails.ACROSS,
    }


def _noting_shapes(pictures: Iterable[np.ndarray], shapes: list[list[int]]) -> Iterator[np.ndarray]:
    """The same pictures; the width and height of each is added to `shapes` as it goes by."""
    for picture in pictures:
        shapes.append([picture.shape[1], picture.shape[0]])
        yield picture
