"""What the model says, drawn on the picture it was said of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

from vgg_flax.live.recording import letterbox
from vgg_flax.live.result import Result

if TYPE_CHECKING:  # JAX takes seconds to import, and nothing here needs it
    from vgg_flax.answers.predictor import Prediction

SHORTEST, LONGEST = 640, 1920  # bounds of a view's long side in pixels
ROOM = (400, 360)  # width and height that the panel needs at least
BARS = 5  # classes shown at most

Colour = tuple[int, int, int]  # BGR
WHITE: Colour = (245, 245, 245)
GREY: Colour = (175, 175, 175)
TRACK: Colour = (78, 74, 72)
ACCENT: Colour = (150, 205, 64)
WARNING: Colour = (80, 180, 250)


def compose(result: Result, mirror: bool = False) -> np.ndarray:
    """The frame with label, bars and footer, uint8 BGR `[height, width, 3]`; `mirror` leaves the text readable."""
    view = fit(result.frame.image, mirror)
    draw_prediction(view, result.prediction, result.classes, f"{result.model}   {result.speed()}")
    return view


def fit(image: np.ndarray, mirror: bool = False) -> np.ndarray:
    """A copy to draw on, uint8 BGR `[height, width, 3]` with even sides.

    Tiny pictures are enlarged so that text on them can be read, huge ones shrunk, and narrow ones framed in black.
    """
    height, width = image.shape[:2]
    scale = min(max(1.0, SHORTEST / max(height, width)), LONGEST / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    view = cv2.flip(image, 1) if mirror else image
    if size != (width, height):
        view = cv2.resize(view, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    return letterbox(view, max(ROOM[0], size[0] + size[0] % 2), max(ROOM[1], size[1] + size[1] % 2))


def draw_prediction(view: np.ndarray, prediction: Prediction, classes: Sequence[str], footer: str) -> None:
    """Draw the label, its probability, and a bar for each class (the likeliest five) on `view`, in place."""
    unit = _unit(view)
    order = np.argsort(-prediction.probabilities, kind="stable")[:BARS]
    margin, pad = unit // 2, round(0.7 * unit)
    width = min(view.shape[1] - 2 * margin, 18 * unit)
    height = round(2.0 * unit + 1.75 * unit * len(order)) + pad
    _shade(view, margin, margin, width, height)
    left, right = margin + pad, margin + width - pad
    baseline = margin + pad + unit
    plain = prediction.verdict == "label"
    percent = f"{100 * prediction.probability:.1f} %" if plain else ""
    _text_right(view, percent, right, baseline, 1.3 * unit, ACCENT, bold=True)
    room = right - left - (_width(percent, 1.3 * unit, bold=True) + unit if plain else 0)
    size = 1.3 * unit
    if not plain:  # a sentence: smaller rather than cut off
        size = max(0.85 * unit, size * min(1.0, room / _width(prediction.words, size, bold=True)) - 1)
    words = _shorten(prediction.words, room, size, bold=True)
    _text(view, words, left, baseline, size, WHITE if plain else WARNING, bold=True)
    for rank, index in enumerate(order):
        top = baseline + round((0.65 + 1.75 * rank) * unit)
        _bar(
            view,
            classes[int(index)],
            float(prediction.probabilities[index]),
            left,
            right,
            top,
            unit,
            plain and rank == 0,
        )
    _footer(view, footer)


def draw_notice(view: np.ndarray, notice: str, footer: str) -> None:
    """Darken `view` and say in its middle why there is no label, in place."""
    unit = _unit(view)
    view[:] = cv2.convertScaleAbs(view, alpha=0.3)
    left = (view.shape[1] - _width(notice, 1.6 * unit, bold=True)) // 2
    _text(view, notice, left, (view.shape[0] + unit) // 2, 1.6 * unit, WARNING, bold=True)
    _footer(view, footer)


def _bar(
    view: np.ndarray, name: str, probability: float, left: int, right: int, top: int, unit: int, best: bool
) -> None:
    size, colour = 0.85 * unit, WHITE if best else GREY
    percent = f"{100 * probability:.1f}"
    baseline = top + unit
    _text_right(view, percent, right, baseline, size, colour)
    room = right - left - _width(percent, size) - unit
    _text(view, _shorten(name, room, size), left, baseline, size, colour)
    track = slice(baseline + round(0.3 * unit), baseline + round(0.55 * unit))
    view[track, left:right] = TRACK
    view[track, left : left + round((right - left) * probability)] = ACCENT if best else GREY


def _footer(view: np.ndarray, footer: str) -> None:
    unit = _unit(view)
    height = round(1.5 * unit)
    _shade(view, 0, view.shape[0] - height, view.shape[1], height)
    text = _shorten(footer, view.shape[1] - unit, 0.8 * unit)
    _text(view, text, unit // 2, view.shape[0] - round(0.5 * unit), 0.8 * unit, WHITE)


def _unit(view: np.ndarray) -> int:
    """The size everything is measured in: the height of a line of text, a twenty-fourth of the picture."""
    return max(15, round(min(view.shape[0], 0.75 * view.shape[1]) / 24))


def _shade(view: np.ndarray, left: int, top: int, width: int, height: int) -> None:
    area = view[top : top + height, left : left + width]
    area[:] = cv2.convertScaleAbs(area, alpha=0.22, beta=14)


# OpenCV 5 brings an outline font with most of the world's letters; before, there are plotter strokes for ASCII.
_FONT = cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


def _text(
    view: np.ndarray, text: str, left: int, baseline: int, size: float, colour: Colour, bold: bool = False
) -> None:
    if _FONT is not None:
        cv2.putText(view, text, (left, baseline), colour, _FONT, round(size), weight=600 if bold else 400)
    else:
        text, scale, thickness = _plotter(text, size, bold)
        cv2.putText(view, text, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)


def _text_right(
    view: np.ndarray, text: str, right: int, baseline: int, size: float, colour: Colour, bold: bool = False
) -> None:
    _text(view, text, right - _width(text, size, bold), baseline, size, colour, bold)


def _width(text: str, size: float, bold: bool = False) -> int:
    if _FONT is not None:
        box = cv2.getTextSize((0, 0), text, (0, 0), _FONT, round(size), weight=600 if bold else 400)
        return box[0] + box[2]
    text, scale, thickness = _plotter(text, size, bold)
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0]


def _plotter(text: str, size: float, bold: bool) -> tuple[str, float, int]:
    return text.encode("ascii", "replace").decode(), size / 30, max(1, round(size / (10 if bold else 16)))


def _shorten(text: str, room: int, size: float, bold: bool = False) -> str:
    if _width(text, size, bold) <= room:
        return text
    while text and _width(text + "...", size, bold) > room:
        text = text[:-1]
    return text + "..."
