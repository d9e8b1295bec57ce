"""What a person sees: notes, tables and bars on standard error while the program works, results on standard output."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from vgg_flax.settings import SPLITS


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on. Rich would end the process here and now; `main` does it, once files are closed."""
        raise BrokenPipeError


notes = _Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)  # a class may be called :dog:
results = _Console(highlight=False, soft_wrap=True, emoji=False)


def say(text: str) -> None:
    """One line for the person who waits."""
    notes.print(text, markup=False)


def warn(text: str) -> None:
    """One line that should be noticed."""
    notes.print(f"warning: {text}", style="bold yellow", markup=False)


def show_line(text: str) -> None:
    """One line of what was asked for."""
    results.print(text, markup=False)


def show_data(classes: Sequence[str], labels: np.ndarray, splits: np.ndarray, bad: Sequence[tuple[str, str]]) -> None:
    """How many pictures of each class are in each split, and which files were left out."""
    table = Table("class", *(Column(split, justify="right") for split in SPLITS), box=box.SIMPLE_HEAD)
    for label, name in enumerate(classes):
        table.add_row(Text(name), *(str(int(((labels == label) & (splits == split)).sum())) for split in SPLITS))
    table.add_section()
    table.add_row("all", *(str(int((splits == split).sum())) for split in SPLITS), style="bold")
    notes.print(table)
    if bad:
        warn(f"{len(bad)} files are not used (all in bad_files.csv):")
        for name, reason in bad[:10]:
            say(f"  {name!r}: {reason}")
        if len(bad) > 10:
            say(f"  and {len(bad) - 10} more")


def show_choice(candidates: Sequence[Any], last: dict[str, float], iterations: int) -> None:
    """What cross-validation compared, the best first, and the fit that was kept."""
    title = f"{len(candidates)} fits tried"
    columns = [Column(name, justify="right") for name in ("L2", "accuracy", "loss", "temperature")]
    table = Table(Column(f"{title}: blocks"), *columns, box=box.SIMPLE_HEAD)
    for one in candidates[:5]:
        figures = (f"{one.strength:.2g}", f"{one.accuracy:.2%}", f"{one.loss:.4f}", f"{one.temperature:.2f}")
        table.add_row(one.columns, *figures)
    notes.print(table)
    say(
        f"kept: blocks {candidates[0].columns}, {iterations} iterations, train loss {last['train_loss']:.4f} accuracy "
        f"{last['train_accuracy']:.2%}, cross-validated loss {last['val_loss']:.4f} accuracy {last['val_accuracy']:.2%}"
    )


def show_epoch(row: dict[str, float], epochs: int, *, best: bool) -> None:
    """One line an epoch."""
    figures = [
        f"{split} loss {row[f'{split}_loss']:.4f} accuracy {row[f'{split}_accuracy']:6.2%}" for split in SPLITS[:2]
    ]
    speed = f"lr {row['lr']:.1e}   {row['images_per_second']:,.0f} pictures/s"
    say("   ".join([f"epoch {row['epoch']:>3.0f}/{epochs}", *figures, speed, "best" if best else ""]).rstrip())


def show_results(test: dict[str, Any], folder: Path) -> None:
    """The test figures, the files of the run, and what to type next."""
    columns = [Column(name, justify="right") for name in ("precision", "recall", "F1", "pictures")]
    table = Table("test", *columns, box=box.SIMPLE_HEAD)
    for name, one in test["per_class"].items():
        figures = (f"{one[metric]:.1%}" if one["support"] else "-" for metric in ("precision", "recall", "f1"))
        table.add_row(Text(name), *figures, str(one["support"]))
    results.print(table)
    low, high = test["accuracy_95"]
    results.print(
        f"test accuracy {test['accuracy']:.2%} (95 % interval {low:.1%} to {high:.1%}) on {test['count']} pictures; "
        f"always guessing the largest class gives {test['majority_baseline']:.1%}",
        style="bold",
    )
    names = ", ".join(sorted(path.name for path in folder.iterdir() if path.name[0] != "."))
    results.print(f"files in {folder}: {names}", markup=False)
    results.print(f"see it live: vgg-flax webcam --model {shlex.quote(str(folder))}", markup=False)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f}/s" if speed else "", style="cyan")


class Bar:
    """Counts pictures. Call with the number just done."""

    def __init__(self, title: str, total: int, done: int = 0):
        self.title, self.total, self.done = title, total, done
        self._start, self._first, self._last_line = time.monotonic(), done, time.monotonic()
        self._progress: Progress | None = None
        if notes.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate())
            self._progress = Progress(*columns, TimeRemainingColumn(), console=notes, transient=True)
            self._task = self._progress.add_task(title, total=total, completed=done)

    def __call__(self, count: int) -> None:
        self.done += count
        if self._progress:
            self._progress.update(self._task, advance=count)
        elif time.monotonic() - self._last_line > 10:
            self._last_line = time.monotonic()
            rate = self.rate()
            say(f"{self.title}: {self.done}/{self.total}, {rate:.1f}/s, {(self.total - self.done) / rate:.0f} s left")

    def rate(self) -> float:
        """Pictures a second since the bar appeared."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)


@contextmanager
def counter(title: str) -> Iterator[Callable[[int], None]]:
    """Counts what has no known end; in a pipe, nothing is shown."""
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as progress:
        task = progress.add_task(title, total=None)
        yield lambda count: progress.update(task, advance=count)


@contextmanager
def bar(title: str, total: int, done: int = 0, *, summary: bool = True) -> Iterator[Bar]:
    """A progress bar with a rate and the time left; in a pipe, a plain line every ten seconds.

    Args:
      summary: leave a line behind when all is done.
    """
    shown = Bar(title, total, done)
    if shown._progress:
        shown._progress.start()
    try:
        yield shown
    finally:
        if shown._progress:
            shown._progress.stop()
    seconds = time.monotonic() - shown._start
    if summary and shown.done:
        say(f"{title}: {shown.done} in {seconds:.1f} s, {shown.rate():.1f}/s")
