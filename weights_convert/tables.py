"""What the commands print on standard output: the two-sided report of an import, scores, verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from vgg_flax.console import show_line, show_table
from vgg_flax.files import printable
from weights_convert.convert import HEAD, Plan
from weights_convert.recipes import MEANINGS
from weights_convert.rules import DIALECTS

if TYPE_CHECKING:  # these import JAX, which `inspect` and most imports do without
    from weights_convert.guess import Score
    from weights_convert.parity import Stage
    from weights_convert.verify import Verdict


def plan(found: Plan, whole: bool = False) -> None:
    """Print which tensor becomes which parameter, and what is left out and why; of a whole model, the head is used."""
    table = Table(title=_text(f"{found.path.name}: {found.model.upper()}, {found.format}"), title_justify="left")
    for column in ("in the file", "stored", "becomes", "as"):
        table.add_column(column, overflow="fold")
    for target, move in found.moves.items():
        changed = "" if move.tensor.shape == move.shape else _shape(move.shape)
        note = ", ".join(filter(None, (changed, "BGR to RGB" if move.flip else "")))
        table.add_row(_text(move.tensor.name), _shape(move.tensor.shape), target, note)
    for name, reason in _grouped(found.left_out):
        becomes = "head" if whole and reason == HEAD else f"left out: {reason}"
        table.add_row(_text(name), "", _text(becomes), "", style="dim")
    show_table(table)
    left = sum(not (whole and reason == HEAD) for _, reason in found.left_out)
    values = sum(move.tensor.nbytes // 4 for move in found.moves.values())
    mean = ", ".join(f"{v:g}" for v in found.mean)
    std = ", ".join(f"{v:g}" for v in found.std)
    show_line(f"{found.why}.")
    show_line(f"{DIALECTS[found.dialect].title}. {len(found.moves)} tensors, {values:,} values; {left} left out.")
    show_line(f"Preprocessing: (rgb - ({mean})) / ({std}).")


def scores(found: list[Score]) -> None:
    """Print how every recipe does on labelled photos, best first."""
    table = Table(title="Which preparation fits the labelled photos?", title_justify="left")
    numbers = ("photos", "accuracy", "loss", "optimiser")
    for column in ("recipe", "pixels become", *(numbers if found[0].agreement is not None else numbers[:-1])):
        table.add_column(column, justify="right" if column in numbers else "left")
    for i, score in enumerate(found):
        order, scaling = score.recipe.name.split("-")
        meaning = f"{order.upper()}, {MEANINGS[scaling]}"
        style = "bold green" if i == 0 else None if score.tied else "dim"
        figures = [str(score.photos), f"{score.accuracy:.3f}", f"{score.loss:.3f}"]
        if score.agreement is not None:
            figures.append(f"{score.agreement:.3f}")
        table.add_row(score.recipe.name, meaning, *figures, style=style)
    show_table(table)
    if found[0].agreement is not None:
        show_line("optimiser: rank correlation of the features' strengths with those in training, from its state.")
    if tied := [score.recipe.name for score in found[1:] if score.tied]:
        names = ", ".join(tied)
        show_line(f"warning: these fit as well, within chance: {names}. If you know the right one: --preprocess.")


def verdict(found: Verdict) -> None:
    """Print how far an exported file and its model are apart."""
    what = (
        f"{found.pictures} pictures, {found.agree:.0%} with the same label, probabilities"
        if found.pictures
        else "values"
    )
    good = "agrees with" if found.good else "DIFFERS from"
    show_line(f"{found.runtime} {good} our model: {what} at most {found.largest:.1e} apart (limit {found.limit:.0e}).")
    if found.rounding:
        show_line(found.rounding)


def stages(file: Path, runtime: str, found: list[Stage], limit: float) -> None:
    """Print how far another runtime and ours are apart, stage by stage, and of which kind the difference is."""
    table = Table(title=_text(f"{file.name}: {runtime} against ours"), title_justify="left")
    for column in ("stage", "kind", "difference", ""):
        table.add_column(column, justify="right" if column == "difference" else "left")
    for stage in found:
        style = None if stage.good else "bold red"
        table.add_row(stage.name, stage.kind, f"{stage.difference:.1e}", "" if stage.good else "DIFFERS", style=style)
    show_table(table)
    for kind in ("modelling", "preprocessing"):
        parts = [stage.difference for stage in found if stage.kind == kind]
        if parts:
            show_line(f"{kind} difference: at most {max(parts):.1e} of a stage's largest value (limit {limit:.0e}).")
        else:
            show_line(f"{kind} difference: not compared, a whole model's file does not say how pictures were prepared.")


def _text(text: str) -> Text:
    """What a file says, which is no markup of ours."""
    return Text(printable(text))


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _grouped(left_out: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """An optimiser's hundred tensors in one row; others one by one."""
    rows: list[tuple[str, str]] = []
    groups: dict[str, list[str]] = {}
    for name, reason in left_out:
        groups.setdefault(reason, []).append(name)
    for reason, names in groups.items():
        if len(names) > 12:
            rows.append((f"{names[0]} ... {names[-1]} ({len(names)} tensors)", reason))
        else:
            rows += [(name, reason) for name in names]
    return rows
