"""Pictures of a run: learning curves, the worst mistakes, what augmentation does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vgg_flax.console import kept_apart
from vgg_flax.report.style import BAD, GOOD, TRAIN, VAL, save, styled

Mistake = tuple[np.ndarray, str, str, str, float]
LINES: tuple[dict[str, Any], ...] = (
    {"va": "top", "color": BAD, "size": 11, "weight": "bold"},
    {"va": "top", "color": GOOD, "size": 11, "weight": "bold"},
    {"va": "top", "color": TRAIN, "size": 7.5},
)


def draw_curves(rows: list[dict[str, float]], kept: int, path: Path, unit: str = "epoch") -> None:
    """Loss and accuracy by epoch, with the one that was kept marked.

    Args:
      kept: number of the row that was kept, from 1.
      unit: what a row stands for.
    """
    numbers = [row["epoch"] for row in rows]
    marker = "o" if len(rows) < 40 else ""
    with plt.rc_context(styled()):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
        for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
            for split, name, colour in (("train", "training", TRAIN), ("val", "validation", VAL)):
                values = [row[f"{split}_{metric}"] for row in rows]
                axis.plot(numbers, values, marker=marker, color=colour, lw=2, ms=4, label=name)
            value = rows[kept - 1][f"val_{metric}"]
            axis.axvline(kept, color=VAL, lw=1, ls=":")
            axis.plot([kept], [value], "o", color=VAL, ms=9, mfc="white", mew=2, zorder=5)
            text = f"{value:.1%}" if metric == "accuracy" else f"{value:.3f}"
            axis.set(title=f"{metric.capitalize()} ({unit} {kept} kept: {text})", xlabel=unit)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.grid(axis="y", color="#d0d7de", lw=0.6)
            axis.legend(frameon=False)
        axes[0].set_ylim(bottom=0)
        axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        save(figure, path)


def draw_mistakes(wrong: Sequence[Mistake], total_wrong: int, count: int, path: Path) -> None:
    """A sheet of the worst mistakes, worst first: (uint8 RGB photo, name, truth, predicted, probability) each."""
    columns = _columns(len(wrong))
    side, gap, below, top = float(np.clip(10 / columns, 2.5, 5)), 0.2, 0.8, 0.5  # inches, as everything here
    width, height = max(columns * (side + gap), 5.2), top + -(-len(wrong) // columns) * (side + below)
    shown = f", the {len(wrong)} most confident" if total_wrong > len(wrong) else ""
    title = (
        f"{total_wrong} of {count} test pictures wrong{shown}" if total_wrong else f"All {count} test pictures right"
    )
    fits = round(side * 9.4)  # characters in bold below a photo
    guesses = kept_apart([one[3] for one in wrong], fits - 4)
    truths, names = kept_apart([one[2] for one in wrong], fits - 3), kept_apart([one[1] for one in wrong], fits + 10)
    with plt.rc_context(styled([text for one in wrong for text in one[1:4]])):
        figure = plt.figure(figsize=(width, height), layout="none")
        figure.text(gap / 2 / width, 1 - 0.1 / height, title, va="top", weight="bold", size=13)
        for number, (photo, *_, probability) in enumerate(wrong):
            row, column = divmod(number, columns)
            left, bottom = gap / 2 + column * (side + gap), height - top - row * (side + below) - side
            axis = figure.add_axes((left / width, bottom / height, side / width, side / height))
            axis.imshow(_squared(photo), interpolation="antialiased")
            axis.axis("off")
            figure.text(left / width, (bottom - 0.06) / height, f"{guesses[number]} {probability:.0%}", **LINES[0])
            figure.text(left / width, (bottom - 0.27) / height, f"is {truths[number]}", **LINES[1])
            figure.text(left / width, (bottom - 0.48) / height, names[number], **LINES[2])
        save(figure, path)


def _columns(count: int) -> int:
    """Up to six, so that the last row is as full as can be."""
    return count if 0 < count <= 4 else min((6, 5, 4), key=lambda columns: (-count % columns, -columns)) if count else 1


def _squared(photo: np.ndarray) -> np.ndarray:
    """In the middle of a light square, so that all have one width: uint8 `[h, w, 3]` -> `[side, side, 3]`."""
    height, width, _ = photo.shape
    side = max(height, width)
    square = np.full((side, side, 3), 246, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = photo
    return square


def draw_views(photos: Sequence[np.ndarray], names: Sequence[str], path: Path) -> None:
    """Training photos in the first row, random views of them below. photos: uint8 `[1 + views, side, side, 3]` each."""
    rows = len(photos[0])
    with plt.rc_context(styled(names)):
        figure, axes = plt.subplots(rows, len(photos), figsize=(1.9 * len(photos), 1.9 * rows + 0.7), squeeze=False)
        for column, (views, name) in enumerate(zip(photos, kept_apart(names, 22), strict=True)):
            for row, view in enumerate(views):
                axis = axes[row, column]
                axis.imshow(view, interpolation="antialiased")
                axis.set(xticks=[], yticks=[])
                axis.spines[:].set_visible(False)
                if column == 0:
                    axis.set_ylabel("as the network sees it" if row == 0 else f"random view {row}", size=9)
            axes[0, column].set_title(name, size=9, weight="normal")
        figure.suptitle("What the model learns from: photos, and what a camera might have made of them", weight="bold")
        save(figure, path)
