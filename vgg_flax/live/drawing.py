"""What a view is made of, and how it is drawn: rectangles, lines of text, pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import NamedTuple

import cv2
import numpy as np

from vgg_flax.live import text
from vgg_flax.live.text import Colour

GROUND: Colour = (30, 27, 26)
WHITE: Colour = (245, 245, 245)
GREY: Colour = (178, 174, 172)
TRACK: Colour = (74, 70, 68)
SURE: Colour = (120, 200, 70)
DOUBTFUL: Colour = (70, 185, 250)
STRANGE: Colour = (205, 160, 150)
ALARM: Colour = (95, 95, 240)


class Rect(NamedTuple):
    """Pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        return self.left + self.width

    @property
    def bottom(self) -> int:
        return self.top + self.height


@dataclasses.dataclass(frozen=True)
class Text:
    """A line of text, from `left`, or where `right` is set up to there."""

    text: str
    left: int
    baseline: int
    size: int
    colour: Colour = WHITE
    bold: bool = False


@dataclasses.dataclass(frozen=True)
class Bar:
    """A filled rectangle."""

    rect: Rect
    colour: Colour


@dataclasses.dataclass(frozen=True)
class Picture:
    """An image called `name`, uint8 BGR `[h, w, 3]`, scaled into a rectangle of its proportions."""

    rect: Rect
    name: str
    image: np.ndarray = dataclasses.field(compare=False)


Thing = Text | Bar | Picture


def draw(view: np.ndarray, things: Iterable[Thing]) -> None:
    """On uint8 BGR `[height, width, 3]`, in place, one over the other."""
    for thing in things:
        if isinstance(thing, Text):
            text.write(view, thing.text, thing.left, thing.baseline, thing.size, thing.colour, thing.bold)
        elif isinstance(thing, Bar):
            part(view, thing.rect)[:] = thing.colour
        else:
            part(view, thing.rect)[:] = scaled(thing.image, thing.rect.width, thing.rect.height)


def part(view: np.ndarray, place: Rect) -> np.ndarray:
    """That part of a view, to be written to."""
    return view[max(0, place.top) : place.bottom, max(0, place.left) : place.right]


def scaled(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """uint8 `[h, w, 3]` -> `[height, width, 3]`."""
    if image.shape[:2] == (height, width):
        return image
    much = image.shape[1] > 1.5 * width  # linear interpolation would leave pixels out
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if much else cv2.INTER_LINEAR)


def fitted(room: Rect, frame: tuple[int, int]) -> Rect:
    """The largest rectangle of a frame's proportions in the middle of a room."""
    scale = min(room.width / frame[0], room.height / frame[1])
    width, height = max(1, round(frame[0] * scale)), max(1, round(frame[1] * scale))
    return Rect(room.left + (room.width - width) // 2, room.top + (room.height - height) // 2, width, height)
