"""What a person sees: notes, tables and bars on standard error while the program works, results on standard output."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.cells import cell_len, set_cell_size
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

from vgg_flax.files import printable, typed
from vgg_flax.settings import SPLITS

MOST_ROWS, WORST = 30, 10  # a table with more classes shows the worst
NAME_WIDTH = 34  # columns of a class's name
EVERY = 10.0  # seconds between two lines about progress, where there is no bar


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads on. Rich would end the process here and now; `main` does it, once files are closed."""
        raise BrokenPipeError


notes = _Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)  # a class may be called :dog:
results = _Console(highlight=False, soft_wrap=True, emoji=False)


def say(text: str) -> None:
    """One line for the person who waits."""
    _line(notes, text)


def warn(text: str) -> None:
    """One line that should be noticed."""
    _line(notes, f"warning: {text}", "bold yellow")


def show_line(text: str, style: str = "") -> None:
    """One line of what was asked for."""
    _line(results, text, style)


def show_table(table: Table) -> None:
    """What was asked for; a pipe has no width of its own, and folded names can't be searched."""
    if results.is_terminal:
        return results.print(table, soft_wrap=False)
    _Console(file=results.file, width=150, highlight=False, emoji=False).print(table)


def _line(console: Console, text: str, style: str = "") -> None:
    """A terminal would break it in the middle of a word; elsewhere it stays one line, for `grep`."""
    console.print(Text(printable(text), style), soft_wrap=not console.is_terminal)


def counted(count: int, one: str, many: str = "") -> str:
    """Such as `1 photo` and `2 photos`, or `1 photo is` and `2 photos are`. many: unset: an s more."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def shortened(text: str, width: int) -> str:
    """At most `width` columns: the middle left out, since names that belong together begin alike or end alike."""
    if cell_len(text) <= width:
        return text
    head, tail = set_cell_size(text, width // 2).rstrip(), text[::-1]
    return f"{head}…{set_cell_size(tail, width - 1 - cell_len(head)).rstrip()[::-1]}"


def kept_apart(names: Sequence[str], width: int) -> list[str]:
    """`shortened`, but names that would look alike keep the part in which they differ."""
    alike: dict[str, set[str]] = {}
    for name in names:
        alike.setdefault(shortened(name, width), set()).add(name)
    return [_part_that_differs(name, alike[short], width) for name in names for short in [shortened(name, width)]]


def _part_that_differs(name: str, alike: set[str], width: int) -> str:
    if len(alike) == 1:
        return shortened(name, width)
    start = _shared([*alike])
    end = min(_shared([one[::-1] for one in alike]), min(map(len, alike)) - start)
    middle = shortened(name[start : len(name) - end], width - 4)
    room = max(1, (width - 2 - cell_len(middle)) // 2)
    head, tail = set_cell_size(name, min(room, start)).rstrip(), name[len(name) - min(room, end) :]
    return f"{head}…{middle}…{tail}"


def _shared(names: list[str]) -> int:
    """With how many of the same characters all begin."""
    return next((i for i, column in enumerate(zip(*names, strict=False)) if len(set(column)) > 1), min(map(len, names)))


def show_data(classes: Sequence[str], labels: np.ndarray, splits: np.ndarray, bad: Sequence[tuple[str, str]]) -> None:
    """How many pictures of each class are in each split, and which files were left out."""
    counts = np.stack([np.bincount(labels[splits == split], minlength=len(classes)) for split in SPLITS])
    table = Table("class", *(Column(split, justify="right") for split in SPLITS), box=box.SIMPLE_HEAD)
    shown = _shown(counts.sum(0))
    for label, name in zip(shown, kept_apart([printable(classes[label]) for label in shown], NAME_WIDTH), strict=True):
        table.add_row(Text(name), *map(str, counts[:, label]))
    table.add_section()
    table.add_row(f"all {len(classes)}", *map(str, counts.sum(1)), style="bold")
    notes.print(table)
    if len(classes) > MOST_ROWS:
        say(f"the {WORST} classes with the fewest pictures; split.csv has all {len(classes)}")
    if bad:
        warn(f"{counted(len(bad), 'file is', 'files are')} not used (all in bad_files.csv):")
        for name, reason in bad[:10]:
            say(f"  {name!r}: {reason}")
        if len(bad) > 10:
            say(f"  and {len(bad) - 10} more")


def _shown(values: Sequence[float] | np.ndarray) -> list[int]:
    """Which rows of a table are shown, given what makes one worth a look: all, or those with the lowest values."""
    rows = list(range(len(values)))
    return rows if len(rows) <= MOST_ROWS else sorted(rows, key=lambda row: values[row])[:WORST]


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


def show_epoch(row: dict[str, float], epochs: int, *, best: bool, first: bool) -> None:
    """A row of a table that grows. first: put its head above."""
    if first:
        say(f"{'':11}{'train':^18}   {'validation':^18}")
        say(f"{'epoch':>9}  {'loss':>8} {'accuracy':>9}   {'loss':>8} {'accuracy':>9}   {'lr':>7} {'pictures/s':>10}")
    losses = [f"{loss:8.4f}" if loss < 1000 else f"{loss:8.1e}" for loss in (row["train_loss"], row["val_loss"])]
    shares = [f"{row[f'{split}_accuracy']:9.2%}" for split in SPLITS[:2]]
    figures = [" ".join(pair) for pair in zip(losses, shares, strict=True)]
    speed = f"{row['lr']:7.1e} {row['images_per_second']:10,.0f}"
    count = f"{row['epoch']:.0f}/{epochs}"
    say(f"{count:>9}  {'   '.join([*figures, speed])}{'  best' if best else ''}")


def show_results(test: dict[str, Any], folder: Path) -> None:
    """The test figures, what the judge made of them, and the files that were written."""
    columns = [Column(name, justify="right") for name in ("precision", "recall", "F1", "pictures")]
    table = Table("test", *columns, box=box.SIMPLE_HEAD)
    classes = list(test["per_class"].items())
    shown = [classes[label] for label in _shown([one["f1"] if one["support"] else 2.0 for _, one in classes])]
    for name, (_, one) in zip(kept_apart([printable(name) for name, _ in shown], NAME_WIDTH), shown, strict=True):
        figures = (f"{one[metric]:.1%}" if one["support"] else "-" for metric in ("precision", "recall", "f1"))
        table.add_row(Text(name), *figures, str(one["support"]))
    results.print(table)
    if len(classes) > MOST_ROWS:
        show_line(f"the {WORST} classes with the lowest F1; report.json has all {len(classes)}")
    low, high = test["accuracy_95"]
    show_line(
        f"test accuracy {test['accuracy']:.2%} (95 % interval {low:.1%} to {high:.1%}) on {test['count']} pictures; "
        f"always guessing the largest class gives {test['majority_baseline']:.1%}",
        style="bold",
    )
    judged = test["judged"]
    right = f", of those {judged['precision']:.1%} right" if judged["precision"] is not None else ""
    show_line(
        f"a plain label: {judged['coverage']:.1%}{right}; not sure: {judged['unsure']}; unlike the training photos: "
        f"{judged['unlike']}"
    )
    names = ", ".join(sorted(path.name for path in folder.iterdir() if path.name[0] != "."))
    show_line(f"files in {folder}: {names}")


def show_live(folder: Path) -> None:
    """What to type next."""
    show_line(f"see it live: vgg-flax webcam --model {typed(folder)}")


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
        elif time.monotonic() - self._last_line > EVERY:
            self._last_line = time.monotonic()
            rate = self.rate()
            say(f"{self.title}: {self.done}/{self.total}, {rate:.1f}/s, {(self.total - self.done) / rate:.0f} s left")

    def rate(self) -> float:
        """Pictures a second since the bar appeared."""
        return (self.done - self._first) / max(time.monotonic() - self._start, 1e-9)


@contextmanager
def counter(title: str) -> Iterator[Callable[[int], None]]:
    """Counts what has no known end; in a pipe, a plain line every ten seconds."""
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as progress:
        task, start = progress.add_task(title, total=None), time.monotonic()
        done, last = 0, start

        def advance(count: int) -> None:
            nonlocal done, last
            done += count
            progress.update(task, advance=count)
            if not notes.is_terminal and time.monotonic() - last > EVERY:
                last = time.monotonic()
                say(f"{title} {done}, {last - start:.0f} s")

        yield advance


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


@contextmanager
def without_noise() -> Iterator[None]:
    """Keep libpng, libjpeg and OpenCV, which write to standard error themselves, from it; what we say still appears.

    What they have to say of a picture that can't be read is said by us, with its name.
    """
    sys.stderr.flush()
    try:
        own = sys.stderr.fileno() == 2
    except (OSError, ValueError):  # a notebook's, or a test's
        own = False
    before, kept = sys.stderr, os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        with open(kept, "w", buffering=1, closefd=False, errors="backslashreplace") as stream:
            sys.stderr = stream if own else before
            yield
    finally:
        sys.stderr = before
        os.dup2(kept, 2)
        os.close(kept)
