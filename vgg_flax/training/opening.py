"""Which folder a run gets: a new one, or with --resume that of an old run with the settings it was started with."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from filelock import BaseFileLock, FileLock, Timeout

from vgg_flax import cli, console, ending
from vgg_flax.errors import UserError
from vgg_flax.settings import TrainSettings, anchored, from_flat, nearby, to_flat
from vgg_flax.training.runs import NOT_KEPT, Run, not_saved

Typed = Callable[[TrainSettings], TrainSettings]


def open_run(settings: TrainSettings, typed: Typed) -> Run:
    """A new run folder, or with `settings.resume` an old one with the settings it was started with.

    Args:
      settings: what was typed, with the usual defaults.
      typed: what was typed, with the defaults that it is given.

    Raises:
      UserError: nothing to resume, the run is in use, or what was typed differs from the settings of the run.
      NotSaved: the folder can't be written.
    """
    with ending.listening():
        return _resumed(settings, typed) if settings.resume else _new_run(nearby(settings))


def _resumed(settings: TrainSettings, typed: Typed) -> Run:
    folder = _named(settings.project, settings.name) if settings.name else _newest(settings.project)
    stored = dataclasses.replace(_stored(folder / "config.yaml"), project=settings.project, name=folder.name)
    _refuse_changes(typed, stored, folder)
    try:
        if lock := _locked(folder):
            console.say(f"run: {folder}, going on")
            return Run(folder, nearby(stored), lock)
    except OSError as error:
        raise not_saved(folder, error) from None
    raise UserError(f"{folder} is in use by another process: wait for it, or choose another --name.")


def _refuse_changes(typed: Typed, stored: TrainSettings, folder: Path) -> None:
    """What was typed now must be what the run was started with; what was not typed is taken from the run."""
    default, kept = to_flat(TrainSettings()), to_flat(stored) | anchored(stored)
    flags = {name: value for name, value in default.items() if isinstance(value, bool)}  # can only be switched on
    asked = typed(from_flat(TrainSettings, {**to_flat(stored), **flags}))
    for name, value in (to_flat(asked) | anchored(asked)).items():
        if name not in NOT_KEPT and value != kept[name] and value != flags.get(name):
            raise UserError(
                f"--{_dashed(name)} is {value} but {folder} was started with {kept[name]}: "
                "leave it out to go on with that run, or start a new one without --resume."
            )


def _named(project: Path, name: str) -> Path:
    folder = project / name
    if not _is_run(folder):
        known = [path.name for path in _runs(project)]
        what = "is no run" if folder.exists() else "does not exist"
        raise UserError(f"--resume: {folder} {what}{cli.nearest(name, known)} {_listed(project, known)}")
    return folder


def _newest(project: Path) -> Path:
    found = _runs(project)
    if not found:
        raise UserError(f"--resume: no run in {project} to go on with; start one without --resume.")
    return max(found, key=lambda folder: (folder / "config.yaml").stat().st_mtime)


def _runs(project: Path) -> list[Path]:
    """Folders that runs of ours have left; other programs write a config.yaml, too."""
    return sorted(path.parent for path in project.glob("*/config.yaml") if _is_run(path.parent))


def _is_run(folder: Path) -> bool:
    """Whether its config.yaml is ours, whole or damaged."""
    try:
        record = _load(folder / "config.yaml")
    except UserError:
        record = {}
    except OSError:
        return False
    return (folder / ".lock").exists() or "vgg_flax" in str(record.get("versions"))


def _listed(project: Path, names: list[str]) -> str:
    if not names:
        return f"There is no run in {project}."
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"Runs in {project}: {', '.join(names[:5])}{more}."


def _load(path: Path) -> dict[str, Any]:
    """Raises UserError where the file is no YAML mapping, OSError where it can't be read."""
    try:
        record = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        where = "" if line is None else f" in line {line + 1}"
        raise UserError(f"{path} can't be read as YAML{where}: {RESTORE}") from None
    if not isinstance(record, dict):
        raise UserError(f"{path} holds no settings: {RESTORE}")
    return record


RESTORE = "restore the file as the run wrote it, or start a new run without --resume."


def _stored(path: Path) -> TrainSettings:
    """The settings in a run's config.yaml, read as if they had been typed."""
    settings = _load(path).get("settings")
    if not isinstance(settings, dict):
        raise UserError(f"{path} lacks the key 'settings': {RESTORE}")
    default = {name: value for name, value in to_flat(TrainSettings()).items() if name not in NOT_KEPT}
    for name in settings:
        if name not in default:
            raise UserError(
                f"{path} has the unknown setting {name!r}{cli.nearest(str(name), default)} {_capital(RESTORE)}"
            )
    if missing := [name for name in default if name not in settings]:
        raise UserError(f"{path} lacks the setting {', '.join(missing)}: {RESTORE}")
    words = []
    for name, value in settings.items():
        if isinstance(default[name], bool) and isinstance(value, bool):
            words += [f"--{_dashed(name)}"] * value
        elif value is not None:
            words.append(f"--{_dashed(name)}={value}")
    try:
        return cli.read(TrainSettings, words)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removesuffix(cli.ALL_OPTIONS)} {_capital(RESTORE)}") from None


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _new_run(settings: TrainSettings) -> Run:
    """--name once more, train, train2, ...: the first that is free, or was made by a process killed before it began."""
    stem = settings.name or "train"
    for number in itertools.count(1):
        folder = settings.project / (stem if number == 1 else f"{stem}{number}")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if _is_empty(folder) and (lock := _locked(folder)):
                if _is_empty(folder):  # still, now that nobody else can write to it
                    taken = f" ({settings.project / stem} is taken)" if settings.name and number > 1 else ""
                    console.say(f"run: {folder}{taken}")
                    return Run(folder, settings, lock)
                lock.release()
        except (FileExistsError, FileNotFoundError):  # a file, or a folder that another process has just removed
            continue
        except OSError as error:
            raise not_saved(folder, error) from None
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
