"""doctor.html: what the doctor found, ranked, with the photos that it is about, on one page that opens from disk."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vgg_flax import console
from vgg_flax.data.dataset import Dataset
from vgg_flax.data.decode import decode
from vgg_flax.errors import BadImage
from vgg_flax.files import write_atomic
from vgg_flax.insight.findings import FIRST, LOOK, TEACHES, Finding, Findings
from vgg_flax.report import page, thumbnails

NAME = "doctor.html"
SIDE = 176  # pixels of a photo's longer side, at most
MOST = 24  # photos or groups of a finding
PER_GROUP = 4  # photos of a group
MOST_ROWS = 40  # of a table
TITLES = {
    "contradictions": "One photo, several labels",
    "across_splits": "Copies across splits",
    "near_copies": "Near-copies",
    "wrong_labels": "Suspected wrong labels",
    "damaged": "Files that can't be used",
    "leaks": "What gives the class away",
    "hints": "What hints at the class",
    "outliers": "Photos unlike all others",
    "imbalance": "Classes of different size",
    "alike": "Classes that look alike",
}
URGENCY = {FIRST: "before anything else", TEACHES: "teaches something wrong", LOOK: "worth a look"}
SHARES = ("accuracy", "guessing", "share")  # columns


@dataclasses.dataclass(frozen=True)
class Shown:
    """A photo.

    Attributes:
      name: of the file.
      picture: a `data:` URI; empty where it can't be read any more.
      label: its class, "" where that is not said.
      words: what is to be said of it.
    """

    name: str
    picture: str
    label: str = ""
    words: str = ""


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a table shows in a place. share: 0 to 1, drawn as a bar; None draws none."""

    text: str
    share: float | None = None


@dataclasses.dataclass(frozen=True)
class Section:
    """A finding on the page.

    Attributes:
      groups: photos that are shown side by side; a photo may stand alone.
      columns, rows: a table, where the finding is not about photos that can be shown.
      more: photos, groups or rows that are in its CSV file only.
    """

    finding: Finding
    title: str
    urgency: str
    groups: tuple[tuple[Shown, ...], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    more: int


def write(folder: Path, findings: Findings, dataset: Dataset) -> Path:
    """Write the page beside the tables of `Findings.save`.

    Args:
      dataset: where the photos are read.

    Returns:
      The page's path.
    """
    places = {name: index for index, name in enumerate(dataset.names)}

    @functools.cache
    def picture(name: str) -> str:
        try:
            photo = decode(dataset.read(places[name]))
        except BadImage:  # it was there a moment ago
            return ""
        return thumbnails.data_uri(thumbnails.at_most(photo, SIDE))

    with console.without_noise():
        sections = [_section(one, picture) for one in findings.ranked]
    classes = list(findings.summary["classes"].items())
    text = page.render(
        "doctor.html.jinja",
        title=f"Doctor: {findings.source}",
        source=findings.source,
        about=findings.summary,
        classes=classes[:MOST_ROWS],
        most=max(1, *(count for _, count in classes)),
        sections=sections,
        tables=sorted(findings.tables),
    )
    write_atomic(folder / NAME, text)
    return folder / NAME


def _section(finding: Finding, picture: Callable[[str], str]) -> Section:
    title, urgency = TITLES.get(finding.kind, finding.kind.replace("_", " ").capitalize()), URGENCY[finding.urgency]
    rows = [dict(zip(finding.columns, row, strict=True)) for row in finding.rows]
    if "file" in finding.columns and finding.kind != "damaged":
        grouped = [list(some) for _, some in itertools.groupby(rows, key=lambda row: row.get("group", row["file"]))]
        groups = tuple(_group(some, picture) for some in grouped[:MOST])
        return Section(finding, title, urgency, groups, (), (), len(grouped) - len(groups))
    said = [name for name in finding.columns if any(row[name] not in ("", None) for row in rows)]
    cells = tuple(tuple(_cell(name, row[name]) for name in said) for row in rows[:MOST_ROWS])
    columns = tuple(name.replace("_", " ") for name in said)
    return Section(finding, title, urgency, (), columns, cells, len(rows) - len(cells))


def _group(rows: list[dict[str, Any]], picture: Callable[[str], str]) -> tuple[Shown, ...]:
    """The first photos of a group, those of another label or split before others; beside a photo its neighbour."""
    first_of = {(row["label"], row.get("split")): row for row in reversed(rows)}
    chosen = sorted(rows, key=lambda row: row is not first_of[row["label"], row.get("split")])[:PER_GROUP]
    shown = [Shown(row["file"], picture(row["file"]), row["label"], _words(row)) for row in chosen]
    others = [(name, value) for name, value in rows[0].items() if name.endswith("_file")]
    shown += [
        Shown(value, picture(value), words=name.removesuffix("_file").replace("_", " ")) for name, value in others
    ]
    if len(rows) > len(chosen):
        shown.append(Shown("", "", words=f"and {len(rows) - len(chosen)} more"))
    return tuple(shown)


def _words(row: Mapping[str, Any]) -> str:
    if "suggested" in row:
        return f"looks like {row['suggested']} ({page.percent(row['probability_of_suggested'])})"
    if "times_the_usual_distance" in row:
        return f"{row['times_the_usual_distance']} times as far from others as usual"
    likeness = "exact copy" if row["copy"] == "exact" else f"{page.percent(row['likeness'])} alike"
    return ", ".join(filter(None, [str(row["split"]), likeness, "mirrored" if row["mirrored"] else ""]))


def _cell(column: str, value: Any) -> Cell:
    if column in SHARES:
        return Cell(page.percent(value), None if column == "guessing" else value)
    if column == "p_value":
        return Cell(f"{value:.3f}" if value >= 0.001 else "< 0.001")
    return Cell(page.plain(value))
