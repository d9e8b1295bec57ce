"""How all pictures of a run look."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

from vgg_flax.report.fonts import families_for

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

TRAIN, VAL, INK, GOOD, BAD = "#6b7682", "#1f6feb", "#24292f", "#1a7f37", "#cf222e"
STYLE: dict[str, Any] = {
    "font.size": 11,
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


def styled(texts: Iterable[str] = ()) -> dict[Any, Any]:
    """matplotlib's settings for a picture in which these texts occur."""
    return {**STYLE, "font.family": families_for(texts)}


def save(figure: Figure | Any, path: Path, *, tight: bool = False) -> None:
    """Write a picture. tight: as large as what is on it."""
    figure.savefig(path, **({"bbox_inches": "tight", "pad_inches": 0.25} if tight else {}))
    plt.close(figure)
