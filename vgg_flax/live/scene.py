"""What a view shows of a State: a list of things to draw, laid out for the size in which it is seen."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from vgg_flax.live import text
from vgg_flax.live.control import KEYS
from vgg_flax.live.drawing import ALARM, DOUBTFUL, GROUND, WHITE, Bar, Rect, Text, Thing, fitted
from vgg_flax.live.panel import Panel, Slots, lowest
from vgg_flax.live.state import State
from vgg_flax.live.text import Colour


@dataclasses.dataclass(frozen=True)
class Scene:
    """A view.

    Attributes:
      width, height: of the view in pixels.
      picture: where the frame is.
      region: where the part of it is that the model sees.
      panel: what stands beside the picture.
      badges: what stands on the picture, at its edge.
    """

    width: int
    height: int
    picture: Rect
    region: Rect
    panel: tuple[Thing, ...]
    badges: tuple[Text | Bar, ...]


def unit(width: int, height: int) -> int:
    """The height of a line of text in a view of that size, in pixels: everything is measured in it."""
    return max(12, round((width * height) ** 0.5 / 44))


def natural_size(width: int, height: int, classes: int) -> tuple[int, int]:
    """The size of a view in which a frame of that size is neither enlarged nor shrunk, within what a screen has."""
    scale = min(max(1.0, 480 / max(width, height)), 1280 / max(width, height))
    wide, high = max(160, round(width * scale)), max(160, round(height * scale))
    size = wide, high
    for _ in range(3):  # a larger view has larger text, which needs a larger panel
        u = unit(*size)
        size = (wide + 15 * u, high) if high >= 0.5 * wide else (wide, high + lowest(u, wide, classes))
    return -(-size[0] // 2) * 2, -(-size[1] // 2) * 2


def arrange(width: int, height: int, frame: tuple[int, int], classes: int) -> tuple[Rect, Rect]:
    """(Where the picture is, where the panel is): side by side or one above the other, as leaves the larger picture.

    Args:
      frame: its width and height.
      classes: how many there are.
    """
    u = unit(width, height)
    beside, below = min(15 * u, width // 2), min(lowest(u, width, classes), height // 2)
    wide = fitted(Rect(0, 0, width - beside, height), frame)
    high = fitted(Rect(0, 0, width, height - below), frame)
    if wide.width >= high.width:
        beside = min(width - wide.width, 26 * u)
        picture = fitted(Rect(0, 0, width - beside, height), frame)
        return picture, Rect(width - beside, 0, beside, height)
    below = height - high.height if high.height < height - below else below
    return fitted(Rect(0, 0, width, height - below), frame), Rect(0, height - below, width, below)


def scene(
    state: State,
    width: int,
    height: int,
    slots: Slots,
    footer: Sequence[str],
    thumbnails: Sequence[tuple[str, np.ndarray | None]] = (),
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
) -> Scene:
    """What a view of that size shows.

    Args:
      slots: remembers the rows of classes from one view to the next.
      footer: lines at the foot of the panel.
      thumbnails: (name, uint8 BGR `[h, w, 3]` or None) of the training photos that are most alike.
      region: left, top, width and height of what the model sees, as shares of the frame as it is shown.
    """
    image = state.frame.image if state.frame else np.zeros((3, 4, 3), np.uint8)
    picture, room = arrange(width, height, (image.shape[1], image.shape[0]), len(state.classes))
    left, top, wide, high = region
    seen = Rect(
        picture.left + round(left * picture.width),
        picture.top + round(top * picture.height),
        round(wide * picture.width),
        round(high * picture.height),
    )
    u = unit(width, height)
    panel = tuple(Panel(room, u).lay(state, slots, footer, thumbnails))
    return Scene(width, height, picture, seen, panel, tuple(_badges(state, picture, u)))


def _badges(state: State, picture: Rect, u: int) -> list[Text | Bar]:
    """Small signs at the edges of the picture, and what is more important than the picture in its middle."""
    things: list[Text | Bar] = []
    signs = [("paused", DOUBTFUL)] if state.paused else []
    signs += [("recording", ALARM)] if state.recording else []
    signs += [(doubt, DOUBTFUL) for doubt in state.doubts if not state.trouble]
    signs += [(f"seen: {state.heat.label}", WHITE)] if state.evidence and state.heat else []
    unknown = state.nearest and state.answer and not state.answer.prediction.nearest
    signs += [("training photos unknown", WHITE)] if unknown else []
    left = picture.left + u // 2
    for words, colour in signs:
        if left > picture.right - 4 * u:
            break
        things += _sign(words, left, picture.top + u // 2, u, colour, picture)
        left = things[-2].rect.right + u // 2  # type: ignore[union-attr]
    if state.notice[1] > time.monotonic():
        things += _sign(state.notice[0], picture.left + u // 2, picture.bottom - 2 * u, u, WHITE, picture)
    if state.trouble:
        things += _middle(state.trouble, picture, u, ALARM)
    if state.help:
        things += _keys(picture, u)
    return things


def _sign(words: str, left: int, top: int, u: int, colour: Colour, picture: Rect) -> list[Text | Bar]:
    size = round(0.9 * u)
    words = text.shorten(words, max(size, picture.right - left - u), size, True)
    box = Rect(left, top, text.width(words, size, True) + u, round(1.4 * u))
    return [Bar(box, GROUND), Text(words, left + u // 2, top + round(1.03 * u), size, colour, True)]


def _middle(words: str, picture: Rect, u: int, colour: Colour) -> list[Text | Bar]:
    """A sentence on a ground of its own in the middle of the picture."""
    size = round(1.1 * u)
    lines = text.wrap(words, picture.width - 2 * size, size, True, 3)
    place, things = _ground(picture, max(text.width(line, size, True) for line in lines), size, len(lines))
    for i, line in enumerate(lines):
        things.append(Text(line, place.left, place.top + round(1.5 * size * i + 1.1 * size), size, colour, True))
    return things


def _keys(picture: Rect, u: int) -> list[Text | Bar]:
    """The keys, and in a second column what they do."""
    size = min(u, max(11, round(picture.height / (1.5 * len(KEYS) + 1))))
    first = max(text.width(key, size, True) for key, _, _ in KEYS) + size
    second = min(max(text.width(words, size) for _, _, words in KEYS), picture.width - first - size)
    place, things = _ground(picture, first + second, size, len(KEYS))
    for i, (key, _, words) in enumerate(KEYS):
        baseline = place.top + round(1.5 * size * i + 1.1 * size)
        things.append(Text(key, place.left, baseline, size, WHITE, True))
        things.append(Text(text.shorten(words, second, size), place.left + first, baseline, size, WHITE))
    return things


def _ground(picture: Rect, width: int, size: int, lines: int) -> tuple[Rect, list[Text | Bar]]:
    """(Where so many lines have their place, what is behind them)."""
    height = round(1.5 * size * lines)
    left, top = picture.left + (picture.width - width) // 2, picture.top + (picture.height - height) // 2
    behind = Rect(left - size // 2, top - size // 2, width + size, height + size)
    return Rect(left, top, width, height), [Bar(behind, GROUND)]
