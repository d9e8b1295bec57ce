"""The folder that a run leaves behind: its settings, its log, its lock. No run ever overwrites another. No JAX here."""

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
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import yaml
from filelock import BaseFileLock, FileLock, Timeout

from vgg_flax import __version__, console
from vgg_flax.errors import UserError
from vgg_flax.files import sweep, write_atomic
from vgg_flax.network.params import digest
from vgg_flax.settings import TrainSettings, from_flat, to_flat

if TYPE_CHECKING:
    from vgg_flax.data.photos import Photos

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
    """One run folder. Create it with `open_run`.

    Attributes:
      folder: where it is.
      settings: those that it was started with.
    """

    def __init__(self, folder: Path, settings: TrainSettings, lock: BaseFileLock):
        self.folder, self.settings, self._lock = folder, settings, lock
        sweep(folder)
        if not self._path.exists():
            record = {
                "settings": self.kept_settings(),
                "python": platform.python_version(),
                "versions": {"vgg_flax": __version__} | {name: version(name) for name in PACKAGES},
            }
            write_atomic(self._path, _yaml(record))

    @property
    def _path(self) -> Path:
        return self.folder / "config.yaml"

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        if not self.begun:  # it leaves nothing behind
            for name in ("config.yaml", "split.csv", "bad_files.csv", ".lock"):
                (self.folder / name).unlink(missing_ok=True)
            self._lock.release()
            with contextlib.suppress(OSError):
                (self.folder / ".lock").unlink(missing_ok=True)
                self.folder.rmdir()
        self._lock.release()

    @property
    def begun(self) -> bool:
        """Whether its data and weights were found and written down."""
        return self._path.exists() and "digests" in yaml.safe_load(self._path.read_text())

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
        classes = [photos.classes[label] for label in photos.labels]
        rows = [*zip(photos.names, photos.splits, classes, strict=True)]
        rows += [(one.name, "left_out", one.label) for one in photos.left_out]
        self.write_table("split.csv", ("file", "split", "label"), rows)
        self.write_table("bad_files.csv", ("file", "reason"), photos.bad)

    def how_to_go_on(self) -> str:
        """What to type after the run was stopped."""
        if not self.begun:
            return "It had not begun: start it again with the same command."
        settings = self.settings
        project = "" if settings.project == Path("runs") else f" --project {shlex.quote(str(settings.project))}"
        return f"Nothing is lost; go on with: vgg-flax train --resume{project} --name {shlex.quote(self.folder.name)}"

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
    """The log once more, for TensorBoard, where tensorboardX is installed."""

    def __init__(self, folder: Path):
        try:
            import tensorboardX
        except ImportError:
            self._writer = None
        else:
            self._writer = tensorboardX.SummaryWriter(str(folder))

    def write(self, row: dict[str, float]) -> None:
        """One epoch."""
        if self._writer is not None:
            for name in COLUMNS[1:]:
                self._writer.add_scalar(name.replace("_", "/", 1), row[name], int(row["epoch"]))
            self._writer.flush()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()


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


def open_run(settings: TrainSettings) -> Run:
    """A new run folder, or with `settings.resume` an old one with the settings it was started with.

    Raises:
      UserError: nothing to resume, the name is taken, or settings differ from those of the run to resume.
    """
    if not settings.resume:
        run = _new_run(settings)
        console.say(f"run: {run.folder}")
        return run
    folder = settings.project / settings.name if settings.name else _newest(settings.project)
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"--resume: {folder} is no run; expected a config.yaml in it.")
    stored = from_flat(TrainSettings, yaml.safe_load(path.read_text())["settings"])
    before = dataclasses.replace(stored, resume=True, project=settings.project, name=folder.name)
    _refuse_changes(settings, before, folder)
    if lock := _locked(folder):
        return Run(folder, before, lock)
    raise UserError(f"{folder} is in use by another process: wait for it, or choose another --name.")


def _refuse_changes(settings: TrainSettings, before: TrainSettings, folder: Path) -> None:
    """What was typed now must be what the run was started with; what was not typed is taken from the run."""
    default, typed, kept = to_flat(TrainSettings()), to_flat(settings), to_flat(before)
    for name, value in typed.items():
        if name not in NOT_KEPT and value not in (default[name], kept[name]):
            raise UserError(
                f"--{name.replace('_', '-')} is {value} but {folder} was started with {kept[name]}: "
                "leave it out to go on with that run, or start a new one without --resume."
            )


def _newest(project: Path) -> Path:
    runs = list(project.glob("*/config.yaml"))
    if not runs:
        raise UserError(f"--resume: no run in {project} to go on with; start one without --resume.")
    return max(runs, key=lambda path: path.stat().st_mtime).parent


def _new_run(settings: TrainSettings) -> Run:
    """--name once more, train, train2, ...: the first that is free, or was made by a process killed before it began."""
    stem = settings.name or "train"
    for number in itertools.count(1):
        folder = settings.project / (stem if number == 1 else f"{stem}{number}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if _is_empty(folder) and (lock := _locked(folder)):
                if _is_empty(folder):  # still, now that nobody else can write to it
                    return Run(folder, settings, lock)
                lock.release()
        except (FileExistsError, FileNotFoundError):  # a file, or a folder that another process has just removed
            continue
        except OSError as error:
            raise UserError(f"{folder} can't be made: {error.strerror}. Choose another --project.") from None
    raise AssertionError


def _is_empty(folder: Path) -> bool:
    return all(path.name == ".lock" or path.suffix == ".tmp" or ".tmp." in path.name for path in folder.iterdir())


def _locked(folder: Path) -> BaseFileLock | None:
    """The lock of a run, None while another process holds it."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock


@contextmanager
def listening() -> Iterator[Callable[[], None]]:
    """Inside the block the first Ctrl-C or SIGTERM is remembered; the second one takes effect at once.

    Yields:
      A function that raises Stopped once a signal has come.
    """
    seen: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        seen.append(number)
        signal.signal(number, signal.SIG_DFL)

    def check() -> None:
        if seen:
            raise Stopped(seen[0])

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
