"""How often whole runs are right: on test photos as they are, and as a camera might show them.

python -m benchmarks.accuracy digits
VGG_FLAX_TEST_DATA=FOLDER python -m benchmarks.accuracy masks signs pets      # the photos are in FOLDER/masks, ...
VGG_FLAX_TEST_DATA=FOLDER python -m benchmarks.accuracy signs --seeds 1 --views 1 --image-size 224 --changed 50

Each run is `vgg_flax.train` with its defaults but for the options given, each seed a split of its own; the model that
it leaves behind is asked as `Predictor` asks it. Robust accuracy is the mean over the ten changes of
`vgg_flax.insight.robust`. Protocol and figures: docs/accuracy.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import vgg_flax
from benchmarks import tables
from vgg_flax.answers.scores import accuracy, cross_entropy
from vgg_flax.data import photos as data
from vgg_flax.insight import robust
from vgg_flax.insight.metrics import calibration_error
from vgg_flax.settings import TrainSettings, from_flat

TITLES = {"plain": ".3f", "robust": ".3f", "loss": ".3f", "ece": ".3f", "temperature": ".2f", "seconds": ".0f"}


def measure(name: str, seed: int, options: dict[str, Any], changed: int | None) -> dict[str, Any]:
    """Train on one set with one seed, and score the test photos.

    Args:
      name: `digits`, or a folder inside the one that VGG_FLAX_TEST_DATA names.
      options: of `vgg_flax.train`.
      changed: change at most so many test photos, those of the lowest digests; all, if not given.
    """
    source = name if name == "digits" else str(Path(os.environ["VGG_FLAX_TEST_DATA"]) / name)
    options = options | {"data": source, "seed": seed}
    with tempfile.TemporaryDirectory() as project:
        start = time.monotonic()
        run = vgg_flax.train(**options, project=Path(project))
        seconds = time.monotonic() - start
        predictor = vgg_flax.Predictor.load(run)
    photos, size = data.load(from_flat(TrainSettings, options))
    test = photos.rows("test")
    labels, logits = photos.labels[test], predictor.run(photos.images[test])[0]
    probabilities = predictor.bundle.judge.probabilities(logits)
    few = test[np.argsort(photos.contents[test])[:changed]]
    by_change = robust.accuracies(
        lambda images: predictor.run(images)[0], photos.images[few], photos.contents[few].tolist(), photos.labels[few]
    )
    temperature = predictor.bundle.judge.temperature
    return {
        "set": name,
        "seed": seed,
        "image_size": size,
        "photos": len(photos),
        "test": len(test),
        "changed": len(few),
        "blocks": list(predictor.bundle.spec.head.blocks),
        "plain": accuracy(logits, labels),
        "robust": robust.robust_accuracy(by_change),
        "loss": cross_entropy(logits / temperature, labels),
        "ece": calibration_error(probabilities, labels),
        "temperature": temperature,
        "seconds": seconds,
        "by_change": by_change,
    }


def describe(results: list[dict[str, Any]]) -> str:
    """Two tables: a row for each run and a mean for each set; accuracy under each change, mean of the seeds."""
    names = list(dict.fromkeys(one["set"] for one in results))
    rows, changes = [], []
    for name in names:
        mine = [one for one in results if one["set"] == name]
        rows += [[f"{name}, seed {one['seed']}", *_cells(one)] for one in mine]
        means = {title: float(np.mean([one[title] for one in mine])) for title in TITLES}
        rows.append([f"**{name}, mean**", *_cells(mine[0] | means)])
        averages = [np.mean([one["by_change"][change] for one in mine]) for change in robust.CHANGES]
        changes.append([name, *(f"{average:.3f}" for average in averages)])
    titles = ["", "size", "test photos", *TITLES]
    return f"{tables.table(titles, rows)}\n\n{tables.table(['', *robust.CHANGES], changes)}\n"


def _cells(one: dict[str, Any]) -> list[str]:
    return [str(one["image_size"]), str(one["test"]), *(format(one[title], TITLES[title]) for title in TITLES)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Plain and robust test accuracy of whole runs.")
    parser.add_argument("sets", nargs="+", metavar="SET", help="digits, or a folder inside $VGG_FLAX_TEST_DATA")
    parser.add_argument("--seeds", type=int, default=5, help="runs for each set, from seed 0 (default: 5)")
    parser.add_argument("--changed", type=int, help="change at most so many test photos (default: all)")
    parser.add_argument("--views", type=int, help="of each training photo (default: as `vgg-flax train`)")
    parser.add_argument("--image-size", help="pixels, or auto (default: as `vgg-flax train`)")
    arguments = parser.parse_args()
    if {*arguments.sets} - {"digits"} and not Path(os.environ.get("VGG_FLAX_TEST_DATA", "")).is_absolute():
        parser.error("VGG_FLAX_TEST_DATA must name the folder that holds the sets, as an absolute path")
    size = arguments.image_size
    size = int(size) if size and size.isdecimal() else size
    given = {"views": arguments.views, "image_size": size}
    options = {name: value for name, value in given.items() if value is not None}
    results = [
        measure(name, seed, options, arguments.changed) for name in arguments.sets for seed in range(arguments.seeds)
    ]
    head = tables.header()
    versions = ", ".join(f"{name} {version}" for name, version in head["versions"].items())
    print(f"{head['date']}, {head['processor']}, {head['cores']} cores, {versions}\n\n{describe(results)}")
    print(tables.save("accuracy", results), file=sys.stderr)


if __name__ == "__main__":
    main()
