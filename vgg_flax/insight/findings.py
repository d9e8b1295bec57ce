"""What is wrong with some photos, as plain values: ranked, with a table for each kind."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vgg_flax.console import counted
from vgg_flax.files import printable, write_atomic

WIDTH = 80
FIRST, TEACHES, LOOK = 1, 2, 3  # no result can be believed; the model learns something wrong; worth a look


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of thing that was found.

    Attributes:
      kind: the stem of its CSV file, such as `wrong_labels`.
      count: photos, pairs or classes that it is about.
      urgency: FIRST, TEACHES or LOOK.
      text: what was found, a sentence.
      advice: what to do about it.
      columns: of the table.
      rows: of the table, JSON types; the worst first. A column that names a file of the data set is called `file`, or
        ends in `_file`.
    """

    kind: str
    count: int
    urgency: int
    text: str
    advice: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @property
    def file(self) -> str:
        """Name of its CSV file."""
        return f"{self.kind}.csv"


@dataclasses.dataclass(frozen=True)
class Findings:
    """All that was found in a data set.

    Attributes:
      source: what the user typed.
      summary: counts, sizes, formats, JSON types.
      tables: what is written down whatever was found: {file name: (columns, rows)}.
      ranked: what to do first comes first.
    """

    source: str
    summary: dict[str, Any]
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[Any]]]]
    ranked: tuple[Finding, ...]

    def get(self, kind: str) -> Finding | None:
        """The finding of a kind, if there is one."""
        return next((one for one in self.ranked if one.kind == kind), None)

    def record(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "source": self.source,
            "summary": self.summary,
            "findings": [dataclasses.asdict(one) for one in self.ranked],
        }

    def save(self, folder: Path) -> None:
        """doctor.json and the tables, into a folder that exists."""
        write_atomic(folder / "doctor.json", json.dumps(self.record(), indent=1, ensure_ascii=False))
        for name, (columns, rows) in self.tables.items():
            write_atomic(folder / name, _csv(columns, rows))
        for one in self.ranked:
            write_atomic(folder / one.file, _csv(one.columns, one.rows))


def ranked(findings: Iterable[Finding | None], photos: int) -> tuple[Finding, ...]:
    """The most urgent first, and of those the ones that concern most photos."""
    found = [one for one in findings if one]
    return tuple(sorted(found, key=lambda one: (one.urgency, -one.count / max(1, photos), one.kind)))


def in_words(findings: Findings) -> list[str]:
    """For the screen: lines of at most 80 columns."""
    lines = [
        line for text in _about(findings) for line in textwrap.wrap(printable(text), WIDTH, subsequent_indent="  ")
    ]
    if not findings.ranked:
        return [*lines, "", "Nothing wrong was found."]
    lines += ["", "What to do first:"]
    for number, one in enumerate(findings.ranked, 1):
        lines += textwrap.wrap(f"{number:2}. {printable(one.text)}", WIDTH, subsequent_indent="    ")
        lines += textwrap.wrap(
            f"{one.advice} [{one.file}]", WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
        )
    return lines


def _about(findings: Findings) -> list[str]:
    about = findings.summary
    counts = about["classes"]
    lines = [
        f"{findings.source}: {counted(about['photos'], 'photo')}, {about['megabytes']:.1f} MB",
        f"classes: {_listed(counts)}",
    ]
    if about["splits"]:
        lines.append(f"splits: {_listed(about['splits'])}")
    least, middle, most = about["short_side"]
    lines.append(f"formats: {_listed(about['formats'])}; short side {least} to {most} pixels, median {middle}")
    if about["told_apart"] is not None:
        doubts = "" if about["labels_doubted"] else ": too few to doubt a label"
        lines.append(
            f"a quick model, asked about photos it has not seen, is right on {about['told_apart']:.1%}{doubts}"
        )
    return lines


def _listed(counts: dict[str, int], most: int = 12) -> str:
    some = ", ".join(f"{name or 'unknown'} {count}" for name, count in list(counts.items())[:most])
    return f"{some} and {len(counts) - most} more" if len(counts) > most else some


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Names as they are, also those that a spreadsheet takes for a formula: the file must be found again."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()
