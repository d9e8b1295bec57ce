"""The folder that a run leaves behind: its settings, its log, its lock. No run ever overwrites another."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import itertools
import json
import platform
import shlex
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import tensorboardX
import yaml
from filelock import FileLock, Timeout

from vgg_flax import __version__
from vgg_flax.errors import UserError
from vgg_flax.files import write_atomic
from vgg_flax.settings import AugmentSettings, TrainSettings

COLUMNS = (
    "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr", "images_per_second", "seconds"
)  # fmt: skip
NOT_KEPT = ("resume", "project", "name")  # say where the run is, not what it does
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "opencv-python")


class Stopped(Exception):
    """Ctrl-C or SIGTERM asked the run to end; everything is saved. `code` is the exit code."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Run:
    """One run folder. Create it with `open_run`."""

    def __init__(self, folder: Path, config: TrainSettings, resumed: bool):
        self.folder, self.config, self.resumed = folder, config, resumed
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            raise UserError(f"{folder} is in use by another process: wait for it, or choose another --name.") from None

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()
        if not (self.folder / "config.yaml").exists():  # it ended before it had begun
            with contextlib.suppress(OSError):
                (self.folder / ".lock").unlink(missing_ok=True)
                self.folder.rmdir()

    def write_config(self, pictures: str, weights: str, notes: dict[str, Any]) -> None:
        """Settings, versions, and digests of pictures and weights; on resuming, check that both are still the same."""
        path = self.folder / "config.yaml"
        digests = {"pictures": pictures, "weights": weights}
        if self.resumed:
            recorded = yaml.safe_load(path.read_text())["digests"]
            for what, typed in (("pictures", self.config.data), ("weights", self.config.weights)):
                if recorded[what] != digests[what]:
                    raise UserError(
                        f"the {what} in {typed} changed since {self.folder} was started (digest "
                        f"{digests[what][:12]}, expected {recorded[what][:12]}): restore them, or start a new run."
                    )
            return
        record = {
            "settings": settings(self.config),
            "digests": digests,
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})",
            "python": platform.python_version(),
            "versions": {"vgg_flax": __version__} | {name: version(name) for name in PACKAGES},
            **notes,
        }
        write_atomic(path, yaml.safe_dump(record, sort_keys=False, allow_unicode=True))

    def how_to_go_on(self) -> str:
        """What to type after the run was stopped."""
        if not (self.folder / "config.yaml").exists():
            return "It had not begun: start it again with the same command."
        project = "" if self.config.project == Path("runs") else f" --project {shlex.quote(str(self.config.project))}"
        return f"Nothing is lost; go on with: python train.py --resume{project} --name {shlex.quote(self.folder.name)}"

    def read_log(self, epochs: int) -> list[dict[str, float]]:
        """The first `epochs` rows of metrics.csv; later ones belong to work that was not saved, and are dropped."""
        path = self.folder / "metrics.csv"
        if not path.exists():
            return []
        with path.open(newline="") as file:
            rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        return [row | {"epoch": int(row["epoch"])} for row in rows[:epochs]]

    def write_log(self, rows: list[dict[str, float]]) -> None:
        """metrics.csv, a row an epoch."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _number(row[name]) for name in COLUMNS} for row in rows)
        write_atomic(self.folder / "metrics.csv", text.getvalue())

    def write_report(self, report: dict[str, Any]) -> None:
        """report.json."""
        write_atomic(self.folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False))

    def write_table(self, name: str, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
        """A CSV file with a header line."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        write_atomic(self.folder / name, text.getvalue().encode(errors="surrogateescape"))


class EventLog:
    """The log once more, for TensorBoard."""

    def __init__(self, folder: Path):
        self._writer = tensorboardX.SummaryWriter(str(folder))

    def write(self, row: dict[str, float]) -> None:
        """One epoch."""
        for name in COLUMNS[1:]:
            self._writer.add_scalar(name.replace("_", "/", 1), row[name], int(row["epoch"]))
        self._writer.flush()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def settings(config: TrainSettings) -> dict[str, Any]:
    """The settings that decide what a run computes, as plain types."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in NOT_KEPT}


def open_run(config: TrainSettings) -> Run:
    """A new run folder, or with `config.resume` an old one with the settings it was started with.

    Raises:
      UserError: nothing to resume, the name is taken, or settings differ from those of the run to resume.
    """
    if not config.resume:
        return Run(_new_folder(config), config.resolved(), resumed=False)
    folder = config.project / config.name if config.name else _newest(config.project)
    path = folder / "config.yaml"
    if not path.is_file():
        if folder.is_dir() or config.name:
            return Run(_claim(folder), config.resolved(), resumed=False)  # it was stopped before it had begun
        raise UserError(f"--resume: {folder} is no run; expected a config.yaml in it.")
    stored = yaml.safe_load(path.read_text())["settings"]
    before = dataclasses.replace(
        TrainSettings(**{**stored, "augment": AugmentSettings(**stored["augment"])}),
        resume=True,
        project=config.project,
        name=folder.name,
    )
    _refuse_changes(config, before, folder)
    return Run(folder, before, resumed=True)


def _refuse_changes(config: TrainSettings, before: TrainSettings, folder: Path) -> None:
    """What was typed now must be what the run was started with; what was not typed is taken from the run."""
    default, typed, resolved, kept = map(settings, (TrainSettings(), config, config.resolved(), before))
    for name, value in typed.items():
        if value != default[name] and resolved[name] != kept[name]:
            raise UserError(
                f"--{name.replace('_', '-')} is {value} but {folder} was started with {kept[name]}: "
                "leave it out to go on with that run, or start a new one without --resume."
            )


def _newest(project: Path) -> Path:
    runs = list(project.glob("*/config.yaml"))
    if not runs:
        raise UserError(f"--resume: no run in {project} to go on with; start one without --resume.")
    return max(runs, key=lambda path: path.stat().st_mtime).parent


def _new_folder(config: TrainSettings) -> Path:
    """--name once more, train, train2, ...: the first that is free."""
    stem = config.name or "train"
    for number in itertools.count(1):
        folder = config.project / (stem if number == 1 else f"{stem}{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"{folder} can't be made: {error.strerror}. Choose another --project.") from None
    raise AssertionError


def _claim(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Interrupt:
    """Remembers the first Ctrl-C or SIGTERM; the second one takes effect at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self.number is not None:
            raise Stopped(self.number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Catch both signals inside the block."""
        before = {number: signal.signal(number, self._remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        signal.signal(number, signal.SIG_DFL)
