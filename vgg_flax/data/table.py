"""Photos that a table names: a CSV file with the columns `path,label[,split][,group]`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from vgg_flax.data.dataset import Dataset, LeftOut
from vgg_flax.data.decode import read_bytes
from vgg_flax.data.splitnames import SYNONYMS
from vgg_flax.errors import UserError

NEEDED, KNOWN = ("path", "label"), ("path", "label", "split", "group")
SPLIT_WORDS = {**SYNONYMS, "": "", "left_out": "left_out"}


def open_dataset(path: Path) -> Dataset:
    """The pictures that a CSV file names; paths are relative to the folder that it lies in.

    `split` is train, val, test, left_out or empty; pictures with the same `group` share one side of the split.

    Raises:
      UserError: no such table, a column is missing, a split is unknown, or there are fewer than two classes.
    """
    rows = _rows(path)
    kept: list[dict[str, str]] = []
    left_out: list[LeftOut] = []
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, 2):
        word = row["split"].lower()
        if word not in SPLIT_WORDS:
            raise UserError(f"{path}, line {number}: split is {row['split']!r}, expected train, val, test or nothing.")
        row["split"] = SPLIT_WORDS[word]
        if reason := _refused(row, seen):
            left_out.append(LeftOut(row["path"] or f"line {number}", reason, row["label"]))
        else:
            seen.add((row["path"], row["label"]))
            kept.append(row)
    classes = sorted({row["label"] for row in kept})
    if len(classes) < 2:
        found = f"one label, {classes[0]!r}" if classes else "no labelled photos"
        raise UserError(f"{path} has {found}, expected at least two labels.")
    own = np.array([row["split"] for row in kept], "<U5")
    if own.any() and not {"train", ""} & set(own):
        raise UserError(f"{path} has no photo for training: expected some rows with split train, or nothing.")
    number = {label: i for i, label in enumerate(classes)}
    names = tuple(row["path"] for row in kept)
    files = [path.parent / name for name in names]
    groups = np.array([row["group"] for row in kept])
    return Dataset(
        source=str(path),
        classes=tuple(classes),
        names=names,
        labels=np.array([number[row["label"]] for row in kept], np.int32),
        own_splits=own,
        read=lambda index: read_bytes(files[index]),
        below=names,
        keys=(groups,) if (groups != "").any() else (),
        left_out=tuple(left_out),
        notes=(f"{path}: {len(kept)} photos, {len(classes)} labels",),
        warnings=tuple(_lacking(kept, classes)),
    )


def _refused(row: dict[str, str], seen: set[tuple[str, str]]) -> str:
    if not row["path"]:
        return "no path"
    if not row["label"]:
        return "no label"
    if row["split"] == "left_out":
        return "left out by the table itself"
    return "the table names it twice" if (row["path"], row["label"]) in seen else ""


def _lacking(rows: list[dict[str, str]], classes: list[str]) -> list[str]:
    lines = []
    for split in ("val", "test"):
        labels = {row["label"] for row in rows if row["split"] == split}
        if labels and (missing := [name for name in classes if name not in labels]):
            lines.append(f"{split} has no photos of {', '.join(map(repr, missing[:5]))}: no figures for them")
    return lines


def _rows(path: Path) -> list[dict[str, str]]:
    """Every line as {column: text}, spaces around it removed; columns that are absent are ""."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"--data {path} does not exist, expected a .csv file.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--data {path} can't be read ({error}), expected a text file in UTF-8.") from None
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    try:
        columns = [(name or "").strip().lower() for name in reader.fieldnames or []]
        if missing := [name for name in NEEDED if name not in columns]:
            raise UserError(
                f"--data {path} has the columns {', '.join(columns) or 'none'}, expected path,label and perhaps "
                f"split,group: {' and '.join(missing)} missing."
            )
        reader.fieldnames = columns
        return [{name: (row.get(name) or "").strip() for name in KNOWN} for row in reader]
    except csv.Error as error:
        raise UserError(f"--data {path}, line {reader.line_num}: {error}.") from None
