"""A run that never was, with names that attack the page: for the tests of pages."""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np

from vgg_flax.answers.bundle import Bundle
from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictions import Predictions
from vgg_flax.data.photos import Photos
from vgg_flax.insight import metrics
from vgg_flax.network import model, params
from vgg_flax.network.spec import ModelSpec, Preprocessing
from vgg_flax.report import page

ATTACK = "<img src=x onerror=alert(1)>"
JUDGE = Judge(1.3, sure=0.6)


def predictions(count: int = 60, classes: int = 3, seed: int = 0, splits: tuple[str, ...] = ("train", "test")):
    """Answers that are mostly right, about photos and classes with hostile names."""
    rng = np.random.default_rng(seed)
    names = np.array([ATTACK, 'it\'s "quoted" & </script>', *(f"class {i}" for i in range(2, classes))])
    labels = rng.integers(0, classes, count).astype(np.int32)
    logits = rng.normal(size=(count, classes)).astype(np.float32)
    logits[np.arange(count), labels] += 2
    contents = np.array([hashlib.sha256(str(i).encode()).hexdigest() for i in range(count)])
    where = np.array([splits[i % len(splits)] for i in range(count)])
    train = np.flatnonzero(where != "test")
    nearest = np.resize(train[:5], (count, 5)) if len(train) >= 5 else np.full((count, 5), -1)
    files = np.array([f"{ATTACK}/</script><script>alert({i})</script>.jpg" for i in range(count)])
    familiarity = np.where(np.arange(count) == 1, 0.5, 2.0)
    return Predictions(
        names, files, contents, where, labels, logits, np.full(count, -1), familiarity, nearest, np.array(False)
    )


def photos_of(table: Predictions, size: int = 32) -> Photos:
    """Blobs of colour, one for each row."""
    small = np.random.default_rng(1).integers(0, 256, (len(table), 3, 3, 3), np.uint8)
    images = np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC) for one in small])
    names = tuple(map(str, table.names))
    classes = tuple(map(str, table.classes))
    return Photos("photos", classes, images, table.labels, names, table.contents, table.contents, table.splits)


def random_model(spec: ModelSpec, classes: tuple[str, ...], preprocessing: Preprocessing) -> Bundle:
    rng, shapes = np.random.default_rng(0), params.flatten(model.abstract_params(spec))
    flat = {path: rng.normal(size=leaf.shape, scale=0.3).astype(np.float32) for path, leaf in shapes.items()}
    flat["head/standardize/std"] = np.abs(flat["head/standardize/std"]) + 0.5
    return Bundle(spec, params.unflatten(flat), classes, preprocessing, JUDGE)


def report_of(table: Predictions) -> dict:
    """What report.json would say."""
    robust = {"accuracy": 0.8, "by_change": {"dark": 0.9, ATTACK: 0.7}}
    more = {"data": f"{ATTACK}/photos", "image_size": 32, "warnings": [f"beware of {ATTACK}"], "robust": robust}
    wrong = {"file": str(table.names[3]), "label": ATTACK, "suggested": "class 2", "probability": 0.9}
    counts = {"wrong_labels": 1, "near_copy_groups": 2, "outliers": 1}
    doctor = {**counts, "first_wrong_labels": [wrong], "first_outliers": [str(table.names[5]), "no such file"]}
    return {"test": metrics.evaluate(table.select("test"), JUDGE), **more, "doctor": doctor}


def write(folder: Path, table: Predictions, photos: Photos | None = None, bundle: Bundle | None = None, **more) -> Path:
    """The page of such a run."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"settings": {"model": "vgg16", "data": ATTACK}, "python": "3.11", "versions": {"jax": "0.10"}}
    return page.write(folder, report_of(table), config, table, JUDGE, photos, bundle, **more)
