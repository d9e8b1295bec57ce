"""A State becomes a picture: scaled first, written upon afterwards, so that text is sharp at any size."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import cv2
import numpy as np

from vgg_flax.live.drawing import GROUND, WHITE, draw, part, scaled
from vgg_flax.live.panel import Slots
from vgg_flax.live.scene import Scene, scene
from vgg_flax.live.state import Heat, State
from vgg_flax.network.preprocess import region_of

FOOTER = 0.5  # seconds that figures stay, so that they can be read
HEAT = 0.55  # how strongly the warmest place is coloured


class Painter:
    """Paints one State after the other for a face or a file; each has its own.

    Args:
      album: gives a training photo by its name, uint8 BGR `[h, w, 3]`, or None where it is gone.
    """

    def __init__(self, album: Callable[[str], np.ndarray | None] | None = None):
        self._album = album
        self._slots = Slots()
        self._footer: tuple[float, tuple[str, ...]] = (-np.inf, ())
        self._panel: tuple[tuple[object, ...], np.ndarray] | None = None
        self.scene: Scene | None = None  # of the last view: a face asks it where things are

    def paint(self, state: State, width: int, height: int) -> np.ndarray:
        """The view of a State, uint8 BGR `[height, width, 3]`."""
        shares = shown_region(state)
        shown = self.scene = scene(
            state, width, height, self._slots, self._figures(state), self._thumbnails(state), shares
        )
        view = self._ground(shown)
        if state.frame is not None:
            _frame(view, state, shown, whole=shares == (0.0, 0.0, 1.0, 1.0))
        draw(view, shown.badges)
        return view

    def _ground(self, shown: Scene) -> np.ndarray:
        """The panel, which changes with the label only, and beside it nothing yet."""
        known = (shown.width, shown.height, shown.panel)
        if self._panel is None or self._panel[0] != known:
            view = np.empty((shown.height, shown.width, 3), np.uint8)
            view[:] = GROUND
            draw(view, shown.panel)
            self._panel = known, view
        return self._panel[1].copy()

    def _figures(self, state: State) -> tuple[str, ...]:
        now = time.monotonic()
        if now - self._footer[0] > FOOTER or state.paused or (state.frame and state.frame.file):
            self._footer = now, figures(state)
        return self._footer[1]

    def _thumbnails(self, state: State) -> list[tuple[str, np.ndarray | None]]:
        if not state.nearest or state.answer is None:
            return []
        return [(name, self._album(name) if self._album else None) for name in state.answer.prediction.nearest]


def figures(state: State) -> tuple[str, ...]:
    """The lines at the foot of a view: where the picture comes from, and how fast and how old it all is."""
    name = state.frame.file if state.frame and state.frame.file else ""
    rates = [f"{state.capture_rate:.0f} pictures/s"] if state.capture_rate else []
    rates += [f"{state.label_rate:.1f} labels/s"] if state.label_rate else []
    age = state.answer.age_ms if state.answer else None
    lines = (state.source, name, "  ".join(rates), "" if age is None else f"label {age:.0f} ms old", state.model)
    return tuple(filter(None, lines))


def shown_region(state: State) -> tuple[float, float, float, float]:
    """Left, top, width and height of what the model sees, as shares of the frame as it is shown."""
    if state.frame is None:
        return 0.0, 0.0, 1.0, 1.0
    high, wide = state.frame.image.shape[:2]
    left, top, width, height = region_of(state.region, high, wide)
    left = wide - left - width if state.mirror else left
    return left / wide, top / high, width / wide, height / high


def _frame(view: np.ndarray, state: State, shown: Scene, whole: bool) -> None:
    assert state.frame is not None
    place = shown.picture
    image = scaled(state.frame.image, place.width, place.height)
    image = cv2.flip(image, 1) if state.mirror else image
    if state.trouble or state.help:
        image = cv2.convertScaleAbs(image, alpha=0.35)
    part(view, place)[:] = image
    if state.evidence and state.heat and not state.trouble:
        _warm(part(view, shown.region), state.heat, state.mirror)
    if not whole:
        left, top, width, height = shown.region
        cv2.rectangle(view, (left, top), (left + width - 1, top + height - 1), WHITE, max(1, shown.height // 360))


@functools.lru_cache(maxsize=4)
def _layer(heat: Heat, width: int, height: int, mirror: bool) -> tuple[np.ndarray, np.ndarray]:
    """(What is left of a picture, 255 for all of it, the colours that are added), uint8 `[height, width, 3]` each."""
    values = cv2.flip(heat.values, 1) if mirror else heat.values
    colours = cv2.applyColorMap((255 * values).astype(np.uint8), cv2.COLORMAP_INFERNO)
    share = HEAT * cv2.merge([values] * 3)
    small = (255 * (1 - share)).astype(np.uint8), (share * colours).astype(np.uint8)
    kept, added = (cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in small)
    return kept, added


def _warm(seen: np.ndarray, heat: Heat, mirror: bool) -> None:
    """Colour what the model sees where it sees the class, in place."""
    kept, added = _layer(heat, seen.shape[1], seen.shape[0], mirror)
    seen[:] = cv2.add(cv2.multiply(seen, kept, scale=1 / 255), added)
