"""What the doctor found, in pictures: a sheet for each finding that is about photos."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from vgg_flax.data.dataset import Dataset
from vgg_flax.data.decode import decode
from vgg_flax.errors import BadImage
from vgg_flax.insight.findings import Finding, Findings
from vgg_flax.report import fonts
from vgg_flax.report.sheets import Cell, draw_sheet

MOST = 24  # photos of a finding on its sheet
PER_GROUP = 2  # of a group of copies
GROUPED = ("contradictions", "across_splits", "near_copies")
SINGLE = ("wrong_labels", "outliers")


def write(folder: Path, findings: Findings, dataset: Dataset) -> None:
    """`wrong_labels.png`, `near_copies.png` and so on, beside the tables.

    Args:
      dataset: where the photos are read.
    """
    places = {name: index for index, name in enumerate(dataset.names)}

    def read(name: str) -> np.ndarray:
        try:
            return decode(dataset.read(places[name]))
        except BadImage:  # it was there a moment ago
            return np.full((8, 8, 3), 200, np.uint8)

    for kind in (*GROUPED, *SINGLE):
        if one := findings.get(kind):
            cells = (_groups if kind in GROUPED else _photos)(one, read)
            cells = [(photos, fonts.drawable(lines)[0]) for photos, lines in cells]
            draw_sheet(cells, f"{_title(kind)}: {one.count}", folder / f"{kind}.png")


def _title(kind: str) -> str:
    return kind.replace("_", " ").capitalize()


def _rows(finding: Finding) -> list[Mapping[str, object]]:
    return [dict(zip(finding.columns, row, strict=True)) for row in finding.rows]


def _photos(finding: Finding, read: Callable[[str], np.ndarray]) -> list[Cell]:
    cells = []
    for row in _rows(finding)[:MOST]:
        lines = [f"is {row['label']}"]
        if "suggested" in row:
            lines.append(f"looks like {row['suggested']} {row['probability_of_suggested']:.0%}")
        else:
            lines.append(f"{row['times_the_usual_distance']} x the usual distance")
        cells.append(([read(str(row["file"]))], [*lines, str(row["file"])]))
    return cells


def _groups(finding: Finding, read: Callable[[str], np.ndarray]) -> list[Cell]:
    cells = []
    for _, some in itertools.groupby(_rows(finding), key=lambda row: row["group"]):
        few = _different(list(some))
        words = [
            f"{row['label']} {row['split']} {row['likeness']}{' mirrored' if row['mirrored'] else ''}" for row in few
        ]
        names = [str(row["file"]) for row in few]
        cells.append(([read(name) for name in names], [" | ".join(words), *names]))
    return cells[: MOST // PER_GROUP]


def _different(rows: list[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """Two of a group, of different labels or splits if there are such."""
    other = next((row for row in rows if (row["label"], row["split"]) != (rows[0]["label"], rows[0]["split"])), rows[1])
    return [rows[0], other]
