"""Pictures of a run: learning curves, confusion matrices, the worst mistakes. The only importer of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

TRAIN, VAL, INK, GOOD, BAD = "#7a8794", "#1f6feb", "#24292f", "#1a7f37", "#cf222e"
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8c959f",
    "axes.labelcolor": INK,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 144,
    "text.parse_math": False,  # a class may be called $5
}


def draw_curves(rows: list[dict[str, float]], best_epoch: int, path: Path) -> None:
    """Loss and accuracy by epoch, with the epoch that was kept marked."""
    epochs = [row["epoch"] for row in rows]
    marker = "o" if len(rows) < 40 else ""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.2))
        for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
            for split, colour in (("train", TRAIN), ("val", VAL)):
                values = [row[f"{split}_{metric}"] for row in rows]
                axis.plot(epochs, values, marker=marker, color=colour, lw=2, ms=4, label=split)
            kept = rows[best_epoch - 1][f"val_{metric}"]
            axis.axvline(best_epoch, color=VAL, lw=1, ls=":")
            axis.plot([best_epoch], [kept], "o", color=VAL, ms=9, mfc="white", mew=2, zorder=5)
            text = f"{kept:.1%}" if metric == "accuracy" else f"{kept:.3f}"
            axis.set(title=f"{metric.capitalize()} (epoch {best_epoch} kept: {text})", xlabel="epoch")
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            axis.grid(axis="y", color="#d0d7de", lw=0.6)
            axis.legend(frameon=False)
        axes[0].set_ylim(bottom=0)
        axes[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
        _save(figure, path)


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], path: Path, *, normalize: bool) -> None:
    """Rows are the truth, columns the prediction. matrix: counts `[classes, classes]`."""
    counts = np.asarray(matrix, np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    n = len(classes)
    side = float(np.clip(1.6 + 0.62 * n, 4.2, 22))
    longest = min(max(map(len, classes)), 24)
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in classes]
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=(side + 0.09 * longest, side))
        axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        ylabel = "truth (each row: 100 %)" if normalize else "truth"
        axis.set(xlabel="predicted", ylabel=ylabel, xticks=range(n), yticks=range(n))
        turned = longest > 6 and n > 3
        axis.set_xticklabels(names, rotation=45 if turned else 0, ha="right" if turned else "center")
        axis.set_yticklabels(names)
        axis.set_xticks(np.arange(-0.5, n), minor=True)
        axis.set_yticks(np.arange(-0.5, n), minor=True)
        axis.grid(which="minor", color="white", lw=2)
        axis.tick_params(which="both", length=0)
        axis.spines[:].set_visible(False)
        if n <= 40:
            for (i, j), share in np.ndenumerate(shares):
                text = f"{share:.1%}" if normalize else f"{counts[i, j]:.0f}"
                if counts[i, j] or i == j:
                    colour = "white" if share > 0.5 else (BAD if i != j else INK)
                    axis.text(j, i, text, ha="center", va="center", color=colour, size=_number_size(n))
        accuracy = np.trace(counts) / max(counts.sum(), 1)
        axis.set_title(f"Test: {accuracy:.2%} right")
        _save(figure, path)


def _number_size(classes: int) -> float:
    return 18.0 if classes <= 3 else (10.0 if classes <= 12 else 7.0)


def draw_mistakes(
    wrong: Sequence[tuple[np.ndarray, str, str, str, float]], total_wrong: int, count: int, path: Path
) -> None:
    """A sheet of the worst mistakes: (uint8 RGB picture, name, truth, predicted, probability), worst first."""
    columns = min(6, max(3, len(wrong)))
    rows = max(1, -(-len(wrong) // columns))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, columns, figsize=(2.5 * columns, 3.1 * rows + 0.6), squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for axis, (picture, name, truth, predicted, probability) in zip(axes.flat, wrong, strict=False):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(f"{_short(predicted, 18)} {probability:.0%}", color=BAD, size=11)
            axis.text(0, -0.03, f"is {_short(truth, 20)}", transform=axis.transAxes, va="top", color=GOOD, size=10)
            axis.text(0, -0.13, _tail(name, 30), transform=axis.transAxes, va="top", color=TRAIN, size=7.5)
        shown = f", the {len(wrong)} most confident of them" if total_wrong > len(wrong) else ""
        title = (
            f"{total_wrong} of {count} test pictures wrong{shown}"
            if total_wrong
            else f"All {count} test pictures right"
        )
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        _save(figure, path)


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _tail(text: str, length: int) -> str:
    return text if len(text) <= length else f"…{text[1 - length :]}"


def _save(figure: Figure | Any, path: Path) -> None:
    figure.savefig(path)
    plt.close(figure)
