"""Markdown that shows any text as it is: class names are folder names, and those may hold anything."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

SPECIAL = re.compile(r"[\\`*\[\]<>&|~#!$@]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)
ENTITIES = {"<": "&lt;", ">": "&gt;", "&": "&amp;", "|": "&#124;"}


def printable(text: str) -> str:
    """The text on one line, without control characters or halves of a surrogate pair."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(text.split()))


def plain(value: object) -> str:
    """What reads as `value` in a line of Markdown, in a table's cell, and in HTML."""
    return SPECIAL.sub(lambda found: ENTITIES.get(found[0], f"\\{found[0]}"), printable(str(value)))


def quoted(value: object) -> str:
    """The same between quotation marks, for a sentence."""
    return f'"{plain(value)}"'


def table(header: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> str:
    """A table of GitHub-flavoured Markdown; the last `numbers` columns are right-aligned."""
    rule = ["---"] * (len(header) - numbers) + ["---:"] * numbers
    lines = [map(plain, header), rule, *(map(plain, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
