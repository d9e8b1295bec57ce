"""What the harness can kill: a command, what its results are, and what it must not leave behind."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path

LOCKS = ("lock", "claim")


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A program that comes to the same end however often it is killed and started again.

    Attributes:
      command: module, function and arguments, given the scenario's folder. VGG_FLAX_CACHE is `cache` inside it.
      results: name -> digest of everything that must be as in an undisturbed run.
      files: names of all that lies there at the end; what an undisturbed run has not is a leftover.
      companion: whether a second process, which nobody kills, does the same work beside the killed one.
    """

    command: Callable[[Path], list[str]]
    results: Callable[[Path], dict[str, str]]
    files: Callable[[Path], set[str]]
    companion: bool = False


def all_files(folder: Path) -> set[str]:
    """Every file below `folder`; locks come and go."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name not in LOCKS}


def digests(folder: Path, *patterns: str) -> dict[str, str]:
    """SHA-256 of the files below `folder` that the patterns name."""
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _rows(folder: Path) -> list[str]:
    return ["tests.crash.rows", "main"]


def _row_files(folder: Path) -> dict[str, str]:
    """One process writes at a time, in order: even the files must be the same, room that was reserved included."""
    return digests(folder, "result-*", "cache/rows/*/rows", "cache/rows/*/keys", "cache/rows/*/info.json")


def _regression(folder: Path) -> list[str]:
    return ["tests.crash.training", "main", "regression"]


def _epochs(folder: Path) -> list[str]:
    return ["tests.crash.training", "main", "linear"]


def _run_results(folder: Path) -> dict[str, str]:
    return digests(folder, "result-*")


def _run_files(folder: Path) -> set[str]:
    """Checkpoints count as folders; event files and the shared compiled programs have names of their own."""
    names = {name for name in all_files(folder) if "events.out" not in name and not name.startswith("cache/xla/")}
    return {name for name in names if "/checkpoints/" not in name or name.count("/") == 3} - {"runs/victim/.lock"}


SCENARIOS = {
    "rows": Scenario(_rows, _row_files, all_files),
    "rows-shared": Scenario(_rows, _row_files, all_files, companion=True),
    "regression": Scenario(_regression, _run_results, _run_files),
    "epochs": Scenario(_epochs, _run_results, _run_files),
    "two-runs": Scenario(_regression, _run_results, _run_files, companion=True),
}
