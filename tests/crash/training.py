"""A whole training run on a few small pictures, started again with --resume until it has ended.

CRASH_HEAD chooses the head: `regression` is repeated whole, `linear` goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from vgg_flax import console  # noqa: F401  # imports are not counted: JAX and all else come before the first point
from vgg_flax.answers import predictor  # noqa: F401
from vgg_flax.cache import cache_dir
from vgg_flax.commands import train as command
from vgg_flax.files import write_atomic
from vgg_flax.network.spec import BACKBONES, BackboneSpec
from vgg_flax.report import pictures  # noqa: F401
from vgg_flax.settings import TrainSettings, from_flat, to_flat
from vgg_flax.training import fit  # noqa: F401

SMALL = BackboneSpec("vgg16", ((4,) * 2, (4,) * 2, (8,) * 3, (8,) * 3, (8,) * 3))
OPTIONS = {"weights": "random", "image_size": 32, "engine": "xla", "epochs": 3, "views": 2}


def main(head: str) -> None:
    """Go on with the run if it had begun, else begin it; in the end write down digests of all that it computed."""
    BACKBONES["vgg16"] = SMALL
    folder, role = cache_dir().parent, os.environ.get("CRASH_ROLE", "victim")
    _share_compiled_programs(folder)
    run = folder / "runs" / role
    options = {**OPTIONS, "data": str(_photos(folder)), "head": head, "project": folder / "runs", "name": role}
    if not (run / "report.json").exists():
        options |= {"resume": (run / "config.yaml").exists()}
        command.main(
            from_flat(TrainSettings, options), lambda default: from_flat(TrainSettings, to_flat(default) | options)
        )
    write_atomic(folder / f"result-{role}", json.dumps(_results(run), indent=1))


def _photos(folder: Path) -> Path:
    """24 pictures in two classes, outside of what is compared, the same for every trial."""
    photos = folder.parent / "photos"
    with contextlib.suppress(FileExistsError):
        new = folder.parent / f"photos.{os.getpid()}"
        rng = np.random.default_rng(0)
        for label in ("dark", "light"):
            (new / label).mkdir(parents=True)
            for i in range(12):
                picture = rng.integers(0, 90, (40, 40, 3), np.uint8) + (120 if label == "light" else 0)
                (new / label / f"{i}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
        if photos.exists():
            shutil.rmtree(new)
        else:
            with contextlib.suppress(OSError):  # a companion was faster
                new.rename(photos)
    return photos


def _share_compiled_programs(folder: Path) -> None:
    shared = folder.parent / "xla"
    shared.mkdir(mode=0o700, exist_ok=True)
    (folder / "cache").mkdir(exist_ok=True)
    with contextlib.suppress(FileExistsError):
        (folder / "cache" / "xla").symlink_to(shared)


def _results(run: Path) -> dict[str, str]:
    """Of everything that does not depend on the clock."""
    report = json.loads((run / "report.json").read_text())
    kept = {name: value for name, value in report.items() if name not in ("timings", "computed")}
    with (run / "metrics.csv").open() as file:
        log = [[value for name, value in row.items() if "second" not in name] for row in csv.DictReader(file)]
    model = (run / "model" / "model.safetensors").read_bytes()
    arrays = dict(np.load(run / "predictions.npz"))
    values = {"model": model, "report": json.dumps(kept).encode(), "log": json.dumps(log).encode()}
    values |= {name: array.tobytes() for name, array in arrays.items()}
    return {name: hashlib.sha256(value).hexdigest() for name, value in values.items()}
