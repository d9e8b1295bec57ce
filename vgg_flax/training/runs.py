"""The folder that a run leaves behind: its settings, its log, its lock. No run ever overwrites another. No JAX here."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import os
import platform
import shlex
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import BaseFileLock

from vgg_flax import __version__, ending
from vgg_flax.errors import REFUSALS, NotSaved, UserError
from vgg_flax.files import sweep, write_atomic
from vgg_flax.network.params import digest
from vgg_flax.settings import TrainSettings, anchored, to_flat
from vgg_flax.training.tracker import TRACKERS, Tracker

if TYPE_CHECKING:
    from vgg_flax.data.photos import Photos

COLUMNS = (
    "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "images_per_second", "seconds"
)  # fmt: skip
NOT_KEPT = ("resume", "project", "name")  # say where the run is, not what it does
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "opencv-python")


class Run:
    """One run folder. Create it with `opening.open_run`.

    Attributes:
      folder: where it is.
      settings: those that it was started with.
      begun: whether its data and weights were found and written down.
      complete: whether nothing is left to do.
    """

    def __init__(self, folder: Path, settings: TrainSettings, lock: BaseFileLock):
        self.folder, self.settings, self._lock = folder, settings, lock
        self.begun = self.complete = False
        self._tracked = 0
        sweep(folder)
        if self._path.exists():
            self.begun = "digests" in yaml.safe_load(self._path.read_text())
        else:
            self._write_settings()
        ending.last_steps.append(self.leave)

    def _write_settings(self) -> None:
        record = {
            "settings": self.kept_settings() | anchored(self.settings),
            "python": platform.python_version(),
            "versions": {"vgg_flax": __version__} | {name: version(name) for name in PACKAGES},
        }
        try:
            write_atomic(self._path, _yaml(record))
        except OSError:
            self._close()
            raise

    @property
    def _path(self) -> Path:
        return self.folder / "config.yaml"

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        ending.last_steps.remove(self.leave)
        if "tracker" in self.__dict__:
            self.tracker.close()
        self._close()
        if isinstance(error, OSError) and error.errno in REFUSALS:
            raise not_saved(self.folder, error, self._resume if self.begun else "") from None

    def _close(self) -> None:
        self.leave()
        self._lock.release()
        if not self.begun:
            self.discard()  # on Windows only now

    def leave(self) -> str:
        """What to type after the run was stopped. Of a run that had not begun, nothing is left behind."""
        if not self.begun:
            self.discard()
            return "It had not begun: start it again with the same command."
        if self.complete:
            return f"The run is complete: {self.folder}"
        return f"Nothing is lost; go on with: {self._resume}"

    @property
    def _resume(self) -> str:
        project = "" if self.settings.project == Path("runs") else f" --project {_quoted(self.settings.project)}"
        return f"vgg-flax train --resume{project} --name {_quoted(self.folder.name)}"

    def discard(self) -> None:
        """Remove what a run that has not begun consists of."""
        for name in ("config.yaml", "split.csv", "bad_files.csv", ".lock"):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def kept_settings(self) -> dict[str, Any]:
        """The settings that decide what a run computes, as plain types."""
        return {name: value for name, value in to_flat(self.settings).items() if name not in NOT_KEPT}

    def start(self, photos: Photos, weights: Any, device: str) -> None:
        """Write down what the run works on; on resuming, check that it is still the same.

        Args:
          weights: as `weights_convert.load` gives them.
        """
        record = yaml.safe_load(self._path.read_text())
        digests = {"photos": photos.digest, "weights": digest(weights.backbone)}
        for what, typed in (("photos", self.settings.data), ("weights", self.settings.weights)):
            recorded = record.get("digests", digests)[what]
            if recorded != digests[what]:
                raise UserError(
                    f"the {what} in {typed} changed since {self.folder} was started (digest "
                    f"{digests[what][:12]}, expected {recorded[:12]}): restore them, or start a new run."
                )
        notes = {"weights": weights.source, "random_weights": weights.random, "device": device}
        write_atomic(self._path, _yaml({**record, "digests": digests, **notes}))
        self.begun = True
        classes = [photos.classes[label] for label in photos.labels]
        rows = [*zip(photos.names, photos.splits, classes, strict=True)]
        rows += [(one.name, "left_out", one.label) for one in photos.left_out]
        self.write_table("split.csv", ("file", "split", "label"), rows)
        self.write_table("bad_files.csv", ("file", "reason"), photos.bad)

    def read_log(self, epochs: int) -> list[dict[str, float]]:
        """The first `epochs` rows of metrics.csv; later ones belong to work that was not saved, and are dropped."""
        rows = read_log(self.folder)[:epochs]
        self._tracked = len(rows)
        return rows

    @functools.cached_property
    def tracker(self) -> Tracker:
        """The one that `--tracker` names."""
        return TRACKERS[self.settings.tracker](self.folder)

    def write_log(self, rows: list[dict[str, float]]) -> None:
        """metrics.csv, a row an epoch; the tracker is told of those that are new."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _number(row[name]) for name in COLUMNS} for row in rows)
        write_atomic(self.folder / "metrics.csv", text.getvalue())
        for row in rows[self._tracked :]:
            self.tracker.log(row)
        self._tracked = len(rows)

    def write_report(self, report: dict[str, Any]) -> None:
        """report.json, the last file of a run."""
        write_atomic(self.folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False))
        self.complete = True

    def write_table(self, name: str, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
        """A CSV file with a header line."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        write_atomic(self.folder / name, text.getvalue().encode(errors="surrogateescape"))


def read_log(folder: Path) -> list[dict[str, float]]:
    """All rows of a run's metrics.csv; none where there is no such file. Raises ValueError where it is damaged."""
    if not (path := folder / "metrics.csv").exists():
        return []
    with path.open(newline="") as file:
        rows = [{name: float(row[name]) for name in COLUMNS} for row in csv.DictReader(file)]
    return [row | {"epoch": int(row["epoch"])} for row in rows]


class Clock:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - start, 3)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _yaml(record: dict[str, Any]) -> str:
    return yaml.safe_dump(record, sort_keys=False, allow_unicode=True)


def _quoted(path: Path | str) -> str:
    return shlex.quote(str(path))


def not_saved(folder: Path, error: OSError, resume: str = "") -> NotSaved:
    """The one line about a disk that does not take a run. resume: what to type once it does."""
    reason = error.strerror or os.strerror(error.errno or 0)
    go_on = f"then go on with: {resume}" if resume else "or choose another --project."
    return NotSaved(f"{folder} can't be written ({reason}): make room or allow writing there, {go_on}")
