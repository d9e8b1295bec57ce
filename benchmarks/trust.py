"""When whole runs answer: strangers, doubts, calibration, candidates; and whether distance tells strangers at all.

VGG_FLAX_TEST_DATA=FOLDER python -m benchmarks.trust masks signs pets --seeds 5  # photos in FOLDER/masks, ...

Each run is `vgg_flax.train` with its defaults. Strangers of a set are 150 photos of each other set, 100 digits, and 100
pictures made here: diagrams, pages of text, blurred colours, noise, one colour, black. Figures: docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import vgg_flax
from benchmarks import tables
from vgg_flax.answers.predictor import Prediction, Predictor
from vgg_flax.data import photos as data
from vgg_flax.insight import robust
from vgg_flax.insight.metrics import calibration_error
from vgg_flax.network.extract import NO_CHANGE, batch_size
from vgg_flax.settings import TrainSettings, from_flat
from vgg_flax.store import FeatureStore

EACH, MADE = 150, 100
TITLES = {
    "strangers": ".3f", "strangers unlike": ".3f", "AUROC": ".3f", "own unlike": ".3f", "own unsure": ".3f",
    "precision": ".3f", "candidates cover": ".3f", "third size, wrong label": ".3f", "ece": ".3f",
}  # fmt: skip


def made(size: int, count: int = MADE) -> np.ndarray:
    """Pictures of no photo, the same in every run: uint8 RGB `[count, size, size, 3]`."""
    rng = np.random.default_rng(0)
    makers = (_diagram, _text, _colours, _noise, _one_colour, _black)
    return np.stack([makers[i % len(makers)](rng, size) for i in range(count)])


def _diagram(rng: np.random.Generator, size: int) -> np.ndarray:
    picture = np.full((size, size, 3), 255, np.uint8)
    corners = rng.integers(size // 10, size * 9 // 10, (6, 2))
    for (x, y), (u, v) in itertools.pairwise(corners):
        colour = tuple(map(int, rng.integers(0, 200, 3)))
        cv2.rectangle(picture, (int(x), int(y)), (int(x) + size // 6, int(y) + size // 10), colour, 2)
        cv2.arrowedLine(picture, (int(x), int(y)), (int(u), int(v)), (0, 0, 0), 1, cv2.LINE_AA)
    return picture


def _text(rng: np.random.Generator, size: int) -> np.ndarray:
    picture = np.full((size, size, 3), 250, np.uint8)
    for y in range(size // 12, size, size // 12):
        words = " ".join("".join(chr(97 + c) for c in rng.integers(0, 26, n)) for n in rng.integers(2, 9, 8))
        cv2.putText(picture, words, (4, y), cv2.FONT_HERSHEY_SIMPLEX, size / 550, (20, 20, 20), 1, cv2.LINE_AA)
    return picture


def _colours(rng: np.random.Generator, size: int) -> np.ndarray:
    small = rng.integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)


def _noise(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.integers(0, 256, (size, size, 3)).astype(np.uint8)


def _one_colour(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.full((size, size, 3), rng.integers(0, 256, 3), np.uint8)


def _black(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.integers(0, 6, (size, size, 3)).astype(np.uint8)  # a covered lens is not quite 0


class Answers:
    """A trained model's answers to pictures, features kept by content as in training."""

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        self.store = FeatureStore(predictor.extractor, NO_CHANGE, 0)

    def __call__(self, images: Any, contents: np.ndarray) -> list[Prediction]:
        """Of uint8 RGB `[n, size, size, 3]` with contents `[n]`."""
        size, found = batch_size(self.predictor.preprocessing.image_size), []
        for start in range(0, len(contents), size):
            part = slice(start, start + size)
            outputs = self.store.outputs(np.asarray(images[part]), contents[part].tolist())
            found += self.predictor.judge(*self.predictor.answer(outputs))
        return found


def strangers(name: str, sets: list[str], size: int, answers: Answers) -> dict[str, list[Prediction]]:
    """What the model of set `name` says of pictures that are none of its kind."""
    found = {}
    for other in [*sets, "digits"]:
        if other != name:
            photos, _ = data.load(from_flat(TrainSettings, {"data": _source(other), "image_size": size}))
            some = np.argsort(photos.contents)[: EACH if other != "digits" else MADE]
            found[other] = answers(photos.images[some], photos.contents[some])
    pictures = made(size)
    judged = [answers.predictor.predict(pictures[i : i + 20]) for i in range(0, MADE, 20)]
    return found | {"made": [one for part in judged for one in part]}


def _source(name: str) -> str:
    return name if name == "digits" else str(Path(os.environ["VGG_FLAX_TEST_DATA"]) / name)


def measure(name: str, sets: list[str], seed: int) -> dict[str, Any]:
    """Train on one set with one seed; the test photos' and the strangers' answers in figures."""
    from sklearn.metrics import roc_auc_score

    options = {"data": _source(name), "seed": seed}
    with tempfile.TemporaryDirectory() as project:
        predictor = Predictor.load(vgg_flax.train(**options, project=Path(project)))
    photos, size = data.load(from_flat(TrainSettings, options))
    test, answers = photos.rows("test"), Answers(predictor)
    labels = [photos.classes[label] for label in photos.labels[test]]
    own = answers(photos.images[test], photos.contents[test])
    smaller = predictor.predict(robust.change("third size", photos.images[test], photos.contents[test].tolist()))
    others = strangers(name, sets, size, answers)
    everybody = [one for some in others.values() for one in some]
    plain = [one.label == label for one, label in zip(own, labels, strict=True) if one.verdict == "label"]
    wrong = [one.verdict == "label" and one.label != label for one, label in zip(smaller, labels, strict=True)]
    familiar = np.array([one.familiarity for one in [*own, *everybody]], np.float64)
    return {
        "set": name,
        "seed": seed,
        "test": len(test),
        "plain labels": len(plain),
        "strangers": float(np.mean([one.verdict != "label" for one in everybody])),
        "strangers unlike": float(np.mean([one.verdict == "unlike" for one in everybody])),
        "AUROC": float(roc_auc_score([1] * len(own) + [0] * len(everybody), familiar)),
        "own unlike": float(np.mean([one.verdict == "unlike" for one in own])),
        "own unsure": float(np.mean([one.verdict == "unsure" for one in own])),
        "precision": float(np.mean(plain)),
        "candidates cover": float(np.mean([label in one.candidates for one, label in zip(own, labels, strict=True)])),
        "third size, wrong label": float(np.mean(wrong)),
        "ece": calibration_error(np.stack([one.probabilities for one in own]), photos.labels[test]),
        "by stranger": {
            other: dict(Counter(one.verdict for one in some)) | {"pictures": len(some)}
            for other, some in others.items()
        },
        "sure": predictor.bundle.judge.sure,
        "probabilities": [one.probabilities.tolist() for one in own],
        "labels": photos.labels[test].tolist(),
    }


def describe(results: list[dict[str, Any]]) -> str:
    """A row for each run, and one for each set: means, calibration of all its seeds pooled."""
    rows = []
    for name in dict.fromkeys(one["set"] for one in results):
        mine = [one for one in results if one["set"] == name]
        rows += [[f"{name}, seed {one['seed']}", *_cells(one)] for one in mine]
        pooled = calibration_error(
            np.concatenate([one["probabilities"] for one in mine]), np.concatenate([one["labels"] for one in mine])
        )
        means = {title: float(np.mean([one[title] for one in mine])) for title in TITLES} | {"ece": pooled}
        rows.append([f"**{name}**", *_cells(means)])
    return tables.table(["", *TITLES], rows)


def _cells(one: dict[str, Any]) -> list[str]:
    return [format(one[title], TITLES[title]) for title in TITLES]


def main() -> None:
    parser = argparse.ArgumentParser(description="Verdicts of whole runs on their test photos and on strangers.")
    parser.add_argument("sets", nargs="+", metavar="SET", help="folders inside $VGG_FLAX_TEST_DATA")
    parser.add_argument("--seeds", type=int, default=5, help="runs for each set, from seed 0 (default: 5)")
    arguments = parser.parse_args()
    if not Path(os.environ.get("VGG_FLAX_TEST_DATA", "")).is_absolute():
        parser.error("VGG_FLAX_TEST_DATA must name the folder that holds the sets, as an absolute path")
    results = [measure(name, arguments.sets, seed) for name in arguments.sets for seed in range(arguments.seeds)]
    head = tables.header()
    print(f"{head['date']}, {head['processor']}, {head['cores']} cores\n\n{describe(results)}")
    kept = [{key: one[key] for key in one if key not in ("probabilities", "labels")} for one in results]
    print(tables.save("trust", kept), file=sys.stderr)


if __name__ == "__main__":
    main()
