"""`vgg-flax cache`: what is kept between runs, how large it is, when it was used; `--prune` makes room."""

from __future__ import annotations

import datetime

from rich import box
from rich.table import Column, Table
from rich.text import Text

from vgg_flax.cache import Entry, cache_dir, entries, parse_size, prune
from vgg_flax.console import results, show_line
from vgg_flax.settings import CacheSettings


def main(settings: CacheSettings) -> None:
    """Print the table, or drop and say what. Raises UserError for a size that can't be read."""
    if settings.prune is not None:
        limit = parse_size(settings.prune)
        dropped = prune(limit)
        for entry in dropped:
            show_line(f"dropped {_kind(entry)}, {_size(entry.bytes)}, last used {_day(entry)}")
        total = sum(entry.bytes for entry in entries())
        show_line(f"{len(dropped)} dropped; {_size(total)} in {cache_dir()}")
        if total > limit:
            show_line(f"More than {settings.prune}: what is left is in use, or no pictures and features.")
        return
    found = sorted(entries(), key=lambda entry: entry.used, reverse=True)
    if found:
        results.print(_table(found), soft_wrap=False)
    show_line(f"{_size(sum(entry.bytes for entry in found))} in {cache_dir()}")


def _table(found: list[Entry]) -> Table:
    about = Column("about", ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (Column("kind", no_wrap=True), about, Column("size", justify="right", no_wrap=True))
    table = Table(*columns, Column("last used", no_wrap=True), box=box.SIMPLE_HEAD, expand=True)
    for entry in found:
        table.add_row(Text(entry.kind), Text(entry.about), _size(entry.bytes), _day(entry))
    return table


def _kind(entry: Entry) -> str:
    return f"{entry.kind} ({entry.about})" if entry.about else entry.kind


def _day(entry: Entry) -> str:
    return datetime.datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
