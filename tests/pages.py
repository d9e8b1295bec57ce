"""A run that never was, with names that attack the page: for the tests of pages."""

from __future__ import annotations

import hashlib
import html.parser
from pathlib import Path

import cv2
import numpy as np

from vgg_flax.answers.bundle import Bundle
from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictions import Predictions
from vgg_flax.data.dataset import Dataset
from vgg_flax.data.photos import Photos
from vgg_flax.errors import BadImage
from vgg_flax.insight import metrics
from vgg_flax.insight.duplicates import COLUMNS
from vgg_flax.insight.findings import FIRST, LOOK, TEACHES, Finding, Findings
from vgg_flax.network import model, params
from vgg_flax.network.spec import ModelSpec, Preprocessing
from vgg_flax.report import doctor, page

ATTACK = "<img src=x onerror=alert(1)>"
JUDGE = Judge(1.3, sure=0.6)
LOG = [
    {"epoch": 1, "train_loss": 4.0, "train_accuracy": 0.5, "val_loss": 3.0, "val_accuracy": 0.6},
    {"epoch": 2, "train_loss": 2.0, "train_accuracy": 0.75, "val_loss": 2.0, "val_accuracy": 0.7},
    {"epoch": 3, "train_loss": 1.0, "train_accuracy": 1.0, "val_loss": 2.5, "val_accuracy": 0.7},
]


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
    files = np.array([f"{ATTACK}/</script><script>alert({i})</script>.jpg" for i in range(count)])
    known = len(train) >= 5
    nearest, references = np.resize(np.arange(5), (count, 5)) if known else np.full((count, 5), -1), files[train[:5]]
    familiarity = np.where(np.arange(count) == 1, 0.5, 2.0)
    return Predictions(
        names,
        files,
        contents,
        where,
        labels,
        logits,
        np.full(count, -1),
        familiarity,
        nearest,
        references,
        np.array(False),
    )


def photos_of(table: Predictions, size: int = 32) -> Photos:
    """Blobs of colour, one for each row, of which half of the files are narrow pictures; the last file is gone."""
    small = np.random.default_rng(1).integers(0, 256, (len(table), 3, 3, 3), np.uint8)
    images = np.stack([cv2.resize(one, (size, size), interpolation=cv2.INTER_CUBIC) for one in small])
    names = tuple(map(str, table.names))
    classes = tuple(map(str, table.classes))

    def read(name: str) -> bytes:
        if name == names[-1]:
            raise BadImage("gone")
        index = names.index(name)
        picture = images[index][:, : size if index % 4 < 2 else size // 2]
        return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()

    contents = table.contents
    return Photos("photos", classes, images, table.labels, names, contents, contents, table.splits, read=read)


def random_model(spec: ModelSpec, classes: tuple[str, ...], preprocessing: Preprocessing) -> Bundle:
    rng, shapes = np.random.default_rng(0), params.flatten(model.abstract_params(spec))
    flat = {path: rng.normal(size=leaf.shape, scale=0.3).astype(np.float32) for path, leaf in shapes.items()}
    flat["head/standardize/std"] = np.abs(flat["head/standardize/std"]) + 0.5
    return Bundle(spec, params.unflatten(flat), classes, preprocessing, JUDGE)


def report_of(table: Predictions) -> dict:
    """What report.json would say."""
    robust = {"accuracy": 0.8, "by_change": {"dark": 0.9, ATTACK: 0.7}}
    more = {
        "data": f"{ATTACK}/photos",
        "image_size": 32,
        "best_epoch": 2,
        "warnings": [f"beware of {ATTACK}"],
        "robust": robust,
    }
    wrong = {"file": str(table.names[3]), "label": ATTACK, "suggested": "class 2", "probability": 0.9}
    counts = {"wrong_labels": 1, "near_copy_groups": 2, "outliers": 1}
    doctor = {**counts, "first_wrong_labels": [wrong], "first_outliers": [str(table.names[5]), "no such file"]}
    return {"test": metrics.evaluate(table.select("test"), JUDGE), **more, "doctor": doctor}


def write(folder: Path, table: Predictions, photos: Photos | None = None, bundle: Bundle | None = None, **more) -> Path:
    """The page of such a run."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"settings": {"model": "vgg16", "data": ATTACK}, "python": "3.11", "versions": {"jax": "0.10"}}
    return page.write(folder, report_of(table), config, table, JUDGE, photos, bundle, log=LOG, **more)


def dataset_of(table: Predictions) -> Dataset:
    """The same blobs as a data set."""
    photos = photos_of(table)
    read = photos.read
    assert read is not None
    return Dataset(
        "photos",
        photos.classes,
        photos.names,
        table.labels,
        np.full(len(table), ""),
        lambda index: read(photos.names[index]),
    )


def findings(table: Predictions) -> Findings:
    """One of every kind, about photos with hostile names, and one of a kind that no page knows."""
    names, label = [str(name) for name in table.names], ATTACK
    copies = [(1 + i // 6, names[i], label, "train" if i % 2 else "test", "near", 0.991, i % 3 == 0) for i in range(12)]
    labels = ("file", "label", "suggested", "probability_of_label", "probability_of_suggested")
    clues = ("clue", "accuracy", "guessing", "p_value", "example")
    far = ("file", "label", "times_the_usual_distance", "nearest_file")
    some = [
        ("leaks", FIRST, clues, [("format", 0.99, 0.5, 1e-200, f"PNG is {label}")]),
        ("across_splits", FIRST, COLUMNS, copies),
        ("exact_copies", TEACHES, COLUMNS, [(1, names[0], label, "", "exact", 1.0, False), (1, *copies[1][1:])]),
        ("wrong_labels", TEACHES, labels, [(name, label, "class 2", 0.01, 0.987) for name in names[:30]]),
        ("imbalance", TEACHES, ("label", "photos", "share"), [(f"class {i}", 3, 0.01) for i in range(60)]),
        ("outliers", LOOK, far, [(names[-1], label, 3.25, names[2])]),
        ("damaged", LOOK, ("file", "label", "reason"), [(f"{label}.jpg", "", f"no picture: {label}")]),
        ("alike", LOOK, ("one", "other", "share"), [(label, "class 2", 0.25)]),
        ("something_new", LOOK, ("what",), [(label,)]),
    ]
    ranked = tuple(
        Finding(kind, len(rows), urgency, f"About {kind}: {label}.", f"Look at {kind}.", columns, tuple(rows))
        for kind, urgency, columns, rows in some
    )
    summary = {
        "files": 61,
        "photos": 60,
        "classes": {label: 20, "class 2": 40},
        "splits": {"train": 30, label: 30},
        "formats": {"PNG": 60},
        "megabytes": 1.25,
        "short_side": [12, 32, 32],
        "told_apart": 0.875,
        "labels_doubted": True,
    }
    return Findings(f"{label}/photos", summary, {"files.csv": (("file",), ()), "clues.csv": (clues, ())}, ranked)


def write_doctor(folder: Path, table: Predictions) -> Path:
    """The doctor's page of such photos, beside its tables."""
    folder.mkdir(parents=True, exist_ok=True)
    found = findings(table)
    found.save(folder)
    return doctor.write(folder, found, dataset_of(table))


class Reader(html.parser.HTMLParser):
    """Every tag with its attributes, and the text of the page's data."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inside, self.data, self.text = [], "", "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = dict(attributes).get("id") or tag

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "data":
            self.data += data
        else:
            self.text += data


def read(path):
    return Reader(path.read_text(encoding="utf-8"))
