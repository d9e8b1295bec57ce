"""Sheets of photos that a finding is about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt

from vgg_flax.report.style import save, styled

Cell = tuple[Sequence[np.ndarray], Sequence[str]]
COLUMNS = 6


def draw_sheet(cells: Sequence[Cell], title: str, path: Path) -> None:
    """Photos in rows of six, those of one cell side by side, with a few lines of text below each cell.

    Args:
      cells: each a few uint8 RGB pictures `[height, width, 3]` and lines of text.
    """
    wide = max(len(pictures) for pictures, _ in cells)
    columns = max(2, min(COLUMNS // wide, len(cells)))
    rows = -(-len(cells) // columns)
    texts = [line for _, lines in cells for line in lines]
    with plt.rc_context(styled([title, *texts])):
        figure, axes = plt.subplots(
            rows, columns, figsize=(2.1 * wide * columns, 2.9 * rows + 0.5), squeeze=False, gridspec_kw={"hspace": 0.05}
        )
        for axis in axes.flat:
            axis.axis("off")
        for axis, (pictures, lines) in zip(axes.flat, cells, strict=False):
            axis.imshow(np.hstack([_squared(picture) for picture in pictures]))
            below = "\n".join(_tail(line, 30 * wide) for line in lines)
            axis.text(0, -0.03, below, transform=axis.transAxes, va="top", size=8)
        figure.suptitle(title, x=0.01, ha="left", weight="bold")
        save(figure, path)


def _squared(picture: np.ndarray, side: int = 200) -> np.ndarray:
    """The whole picture in the middle of a white square."""
    import cv2

    scale = side / max(picture.shape[:2])
    size = [max(1, round(scale * length)) for length in picture.shape[1::-1]]
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    square = np.full((side, side, 3), 255, np.uint8)
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def _tail(text: str, length: int) -> str:
    return text if len(text) <= length else f"…{text[1 - length :]}"
