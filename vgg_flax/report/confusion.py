"""Which classes are taken for which: a matrix, or of many classes the pairs that are confused most."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps, colors
from matplotlib import pyplot as plt
from rich.cells import cell_len

from vgg_flax.console import kept_apart
from vgg_flax.report.style import BAD, GOOD, INK, TRAIN, VAL, save, styled

MOST = 40  # classes in a matrix that a person can read
PAIRS = 25  # in a list
NAME = 26  # columns of a name beside a matrix
SHADES = colormaps["Blues"]


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str], path: Path, *, normalize: bool) -> None:
    """Rows are the truth, columns the prediction, in the order in which people count. matrix: `[classes, classes]`."""
    order = sorted(range(len(classes)), key=lambda i: natural(classes[i]))
    counts, names = np.asarray(matrix, np.float64)[np.ix_(order, order)], [classes[i] for i in order]
    with plt.rc_context(styled(names)):
        if len(names) <= MOST:
            _draw_matrix(counts, kept_apart(names, NAME), path, normalize)
        else:
            _draw_pairs(counts, names, path, normalize)


def natural(name: str) -> list[tuple[bool, int, str]]:
    """A key that sorts 2 before 10, and numbers before words."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    return [(False, int(part), "") if part.isdecimal() else (True, 0, part.lower()) for part in parts]


def _draw_matrix(counts: np.ndarray, names: list[str], path: Path, normalize: bool) -> None:
    n, shares = len(names), counts / np.maximum(counts.sum(1, keepdims=True), 1)
    cell = float(np.clip(9 / n, 0.5, 1.5))
    figure, axis = plt.subplots(figsize=(cell * n, cell * n), layout="none")
    figure.subplots_adjust(0, 0, 1, 1)  # the cells fill it; what stands around them is added when it is saved
    axis.imshow(shares, cmap=SHADES, vmin=0, vmax=1)
    axis.set(xticks=range(n), yticks=range(n))
    turned = max(map(cell_len, names)) * 0.13 > cell
    axis.set_xticklabels(
        names, rotation=45 if turned else 0, ha="right" if turned else "center", rotation_mode="anchor"
    )
    axis.set_yticklabels(names)
    axis.set_xlabel("predicted", labelpad=8)
    axis.set_ylabel("truth (each row is 100 %)" if normalize else "truth", labelpad=8)
    axis.set_xticks(np.arange(-0.5, n), minor=True)
    axis.set_yticks(np.arange(-0.5, n), minor=True)
    axis.grid(which="minor", color="white", lw=1.5)
    axis.tick_params(which="both", length=0)
    axis.spines[:].set_visible(False)
    size = float(np.clip(cell * (17 if normalize else 20), 6.5, 18))
    for (i, j), share in np.ndenumerate(shares):
        if counts[i, j] or i == j:
            text = f"{share:.0%}" if normalize else f"{counts[i, j]:.0f}"
            weight = "bold" if i != j else "normal"
            axis.text(
                j, i, text, ha="center", va="center", color=number_colour(share, i != j), size=size, weight=weight
            )
    axis.set_title(_headline(counts), loc="center", pad=12, size=14)
    save(figure, path, tight=True)


def number_colour(share: float, mistake: bool) -> Any:
    """Of a number on the shade of `share`, 0 to 1: mistakes are red where that can be read."""
    wanted = [BAD] if mistake and contrast(BAD, SHADES(share)) >= 4 else [INK, "white"]
    return max(wanted, key=lambda colour: contrast(colour, SHADES(share)))


def contrast(one: Any, other: Any) -> float:
    """Of two colours, 1 to 21, as the Web Content Accessibility Guidelines define it."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: Any) -> float:
    channels = np.array(colors.to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def _headline(counts: np.ndarray) -> str:
    total = int(counts.sum())
    return f"Test: {int(np.trace(counts))} of {total} right, {np.trace(counts) / max(total, 1):.1%}"


def _draw_pairs(counts: np.ndarray, names: list[str], path: Path, normalize: bool) -> None:
    """The matrix with alike classes side by side, and the list of the pairs that are confused most."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    values = np.where(np.eye(len(names), dtype=bool), 0, shares if normalize else counts)
    ranks = np.lexsort((-counts.ravel(), -values.ravel()))[:PAIRS]
    pairs = [(int(k // len(names)), int(k % len(names))) for k in ranks if values.ravel()[k] > 0]
    figure, (left, right) = plt.subplots(1, 2, figsize=(16, 8.4), width_ratios=(1, 1.05))
    order = _alike_together(shares)
    left.imshow(np.sqrt(shares[np.ix_(order, order)]), cmap=SHADES, vmin=0, vmax=1, interpolation="nearest")
    left.set(
        xticks=[], yticks=[], xlabel=f"predicted: {len(names)} classes, those confused side by side", ylabel="truth"
    )
    left.spines[:].set_visible(True)
    left.set_anchor("N")
    left.set_title(_headline(counts))
    _list_pairs(right, [(names[i], names[j], counts[i, j], counts[i].sum()) for i, j in pairs], normalize)
    save(figure, path)


def _list_pairs(axis: Any, pairs: list[tuple[str, str, float, float]], normalize: bool) -> None:
    axis.axis("off")
    if not pairs:
        axis.set_title("No class is taken for another")
        return
    how = "by share of the true class" if normalize else "by number of pictures"
    axis.set_title(f"Confused most, {how}")
    axis.set(xlim=(0, 1), ylim=(PAIRS + 0.2, -1.2))
    short = dict(zip(named := [name for pair in pairs for name in pair[:2]], kept_apart(named, NAME), strict=True))
    longest = max(wrong / total if normalize else wrong for _, _, wrong, total in pairs)
    for x, text, colour in ((0.0, "truth", GOOD), (0.36, "taken for", BAD), (0.72, "pictures", INK)):
        axis.text(x, -0.6, text, va="center", color=colour, weight="bold")
    for row, (truth, guess, wrong, total) in enumerate(pairs):
        value = wrong / total if normalize else wrong
        axis.text(0.0, row, short[truth], va="center", size=10)
        axis.text(0.36, row, short[guess], va="center", size=10)
        axis.barh(row, 0.12 * value / longest, 0.55, left=0.72, color=VAL, alpha=0.75)
        axis.text(
            0.72 + 0.12 * value / longest + 0.01, row, f"{wrong:.0f} of {total:.0f}", va="center", size=9, color=TRAIN
        )


def _alike_together(shares: np.ndarray) -> np.ndarray:
    """An order of the classes in which those that are taken for each other are neighbours."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    apart = 1 - np.clip((shares + shares.T) / 2, 0, 1)
    np.fill_diagonal(apart, 0)
    return leaves_list(linkage(squareform(apart, checks=False), "average"))
