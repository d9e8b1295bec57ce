"""Text in a picture: measured, wrapped, and drawn, whatever script it is in."""

from __future__ import annotations

import bisect
import functools
import unicodedata

import cv2
import numpy as np

Colour = tuple[int, int, int]  # BGR

# OpenCV 5 brings an outline font with most of the world's letters; before, there are plotter strokes for ASCII.
_FONT = cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None
RIGHT_TO_LEFT = ("R", "AL")


def write(view: np.ndarray, text: str, left: int, baseline: int, size: int, colour: Colour, bold: bool = False) -> None:
    """Write on uint8 BGR `[height, width, 3]`, in place; `size` is a line's height in pixels."""
    text = drawable(text)
    if _FONT is not None:
        cv2.putText(view, text, (left, baseline), colour, _FONT, size, weight=600 if bold else 400)
    else:
        scale, thickness = _plotter(size, bold)
        cv2.putText(view, text, (left, baseline), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thickness, cv2.LINE_AA)


@functools.lru_cache(maxsize=4096)
def width(text: str, size: int, bold: bool = False) -> int:
    """In pixels."""
    text = drawable(text)
    if _FONT is not None:
        box = cv2.getTextSize((0, 0), text, (0, 0), _FONT, size, weight=600 if bold else 400)
        return box[0] + box[2]
    scale, thickness = _plotter(size, bold)
    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0]


@functools.lru_cache(maxsize=4096)
def shorten(text: str, room: int, size: int, bold: bool = False) -> str:
    """As much of the text as there is room for, its end and its beginning rather than its middle."""
    if width(text, size, bold) <= room:
        return text
    fits = bisect.bisect(range(1, len(text) - 1), room, key=lambda left: width(_without_middle(text, left), size, bold))
    return _without_middle(text, fits)


def _without_middle(text: str, left: int) -> str:
    tail = left // 3
    return f"{text[: left - tail]}\u2026{text[len(text) - tail :] if tail else ''}"


def wrap(text: str, room: int, size: int, bold: bool = False, lines: int = 2) -> list[str]:
    """At most so many lines, broken between words; what does not fit is shortened."""
    found = [""]
    for word in text.split(" "):
        longer = f"{found[-1]} {word}".strip()
        if not found[-1] or len(found) == lines or width(longer, size, bold) <= room:
            found[-1] = longer
        else:
            found.append(word)
    return [shorten(line, room, size, bold) for line in found]


@functools.lru_cache(maxsize=4096)
def drawable(text: str) -> str:
    """The text as it can be drawn here: what the font lacks by its name, right-to-left words in order."""
    text = unicodedata.normalize("NFC", text)
    text = "".join(one if _known(one) else _named(one) for one in text if unicodedata.combining(one) == 0)
    return _ordered(text)


def _named(character: str) -> str:
    """A symbol such as "(cat face)"; a letter by the sound in its name; "?" of what has no name."""
    name, category = unicodedata.name(character, "").lower(), unicodedata.category(character)
    if category in ("Sk", "Cf", "Mn") and not character.isascii():  # changes the colour or shape of what stands before
        return ""
    return f"({name})" if category == "So" else name.split(" ")[-1] or "?"


@functools.lru_cache(maxsize=4096)
def _known(character: str) -> bool:
    """Whether the font has it: what it has not is drawn as a question mark."""
    if _FONT is None or character.isascii():
        return character.isascii() and character.isprintable()
    if "\ud800" <= character <= "\udfff":  # an odd byte of a file's name; OpenCV crashes at it
        return False
    pictures = np.zeros((2, 48, 64, 3), np.uint8)
    for picture, one in zip(pictures, (character, "?"), strict=True):
        cv2.putText(picture, one, (8, 36), (255, 255, 255), _FONT, 24, weight=400)
    return not np.array_equal(pictures[0], pictures[1])


def _ordered(text: str) -> str:
    """Letters from left to right, as the font draws them: words of scripts that run the other way are turned round."""
    if not any(unicodedata.bidirectional(one) in RIGHT_TO_LEFT for one in text):
        return text
    words: list[str] = []
    run: list[str] = []
    for word in text.split(" "):
        if any(unicodedata.bidirectional(one) in RIGHT_TO_LEFT for one in word):
            run.insert(0, word[::-1])
        else:
            words += [*run, word]
            run = []
    return " ".join([*words, *run])


def _plotter(size: int, bold: bool) -> tuple[float, int]:
    return size / 30, max(1, round(size / (10 if bold else 16)))
