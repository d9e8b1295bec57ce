"""The panel beside a live picture: the verdict in words, a bar for each class, the nearest photos, figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vgg_flax.live import text
from vgg_flax.live.drawing import DOUBTFUL, GREY, STRANGE, SURE, TRACK, WHITE, Bar, Picture, Rect, Text, Thing, fitted
from vgg_flax.live.state import State
from vgg_flax.live.text import Colour

MOST_ROWS = 12  # classes shown at most
THUMBNAILS = 5


class Panel:
    """Lays out words and bars from the top of a room down, and its foot from below."""

    def __init__(self, room: Rect, u: int):
        self.u = u
        pad = u // 2
        self.left, self.right = room.left + pad, room.right - pad
        self.top, self.bottom = room.top + pad, room.bottom - pad
        self.low = room.top > 0  # below the picture

    def lay(
        self,
        state: State,
        slots: Slots,
        footer: Sequence[str],
        thumbnails: Sequence[tuple[str, np.ndarray | None]],
    ) -> list[Thing]:
        things = self._foot(footer)
        if thumbnails:
            things += self._photos(thumbnails, len(state.classes))
        things += self._headline(state)
        self.top += 0 if self.low else self.u // 3
        answer = None if state.trouble else state.answer
        if len(state.classes) == 2:
            things += self._one_bar(state, answer.prediction.probabilities if answer else None)
        elif state.classes:
            things += self._rows(state, answer.prediction.probabilities if answer else None, slots)
        return things

    def _line(self, words: str, size: float, colour: Colour, bold: bool = False) -> Text:
        pixels = round(size * self.u)
        self.top += round(1.15 * pixels)
        fitting = text.shorten(words, self.right - self.left, pixels, bold)
        return Text(fitting, self.left, self.top - round(0.25 * pixels), pixels, colour, bold)

    def _headline(self, state: State) -> list[Thing]:
        words, percent, colour = headline(state)
        room = self.right - self.left
        for size in (1.7, 1.45, 1.2):
            pixels = round(size * self.u)
            taken = text.width(percent, pixels, True) + self.u if percent else 0
            if text.width(words, pixels, True) <= room - taken:
                line = self._line(words, size, colour, True)
                right = self.right - text.width(percent, pixels, True)
                return [line, *([Text(percent, right, line.baseline, pixels, colour, True)] if percent else [])]
        size = 1.0 if self.low else 1.2
        lines = text.wrap(words, room, round(size * self.u), True, 1 if self.low else 3)
        lines += [percent] if percent and not self.low else []
        return [self._line(line, size, colour, True) for line in lines]

    def _one_bar(self, state: State, probabilities: np.ndarray | None) -> list[Thing]:
        """Two classes share one bar: what one gains the other loses. A name at each end, or above and below."""
        size, room = self.u, self.right - self.left
        percents = ["", ""] if probabilities is None else [f"  {100 * p:.0f} %" for p in probabilities]
        wide = [text.width(f"{name}{percent}", size) for name, percent in zip(state.classes, percents, strict=True)]
        beside = self.low or sum(wide) + size <= room  # below the picture there is no second line
        share = (room - size) // 2 if beside and sum(wide) + size > room else room
        baseline = self.top + round((1.0 if self.low else 1.5) * size)
        track = Rect(self.left, baseline + size // 3, room, max(3, round(0.6 * size)))
        below = baseline if beside else track.bottom + round(1.1 * size)
        best = None if probabilities is None else int(np.argmax(probabilities))
        things: list[Thing] = [Bar(track, TRACK)]
        for number, line in enumerate((baseline, below)):
            name = text.shorten(state.classes[number], share - text.width(percents[number], size), size)
            words = f"{name}{percents[number]}"
            left = self.right - text.width(words, size) if number else self.left
            things.append(Text(words, left, line, size, WHITE if number == best else GREY))
        if probabilities is not None and best is not None:
            filled = round(track.width * float(probabilities[best]))
            left = track.right - filled if best else track.left
            things.append(Bar(Rect(left, track.top, filled, track.height), _colour_of(state)))
        self.top = max(track.bottom, below)
        return things

    def _rows(self, state: State, probabilities: np.ndarray | None, slots: Slots) -> list[Thing]:
        high, columns = round(1.9 * self.u), columns_in(self.u, self.right - self.left + self.u) if self.low else 1
        room = min(MOST_ROWS, columns * max(1, (self.bottom - self.top) // high))
        values = np.zeros(len(state.classes)) if probabilities is None else probabilities
        shown = state.answer.prediction.label if state.answer and probabilities is not None else None
        things: list[Thing] = []
        numbers = slots(values, room)
        deep = -(-len(numbers) // columns)
        wide = (self.right - self.left - (columns - 1) * self.u) // columns
        for i, number in enumerate(numbers):
            left, top = self.left + (i // deep) * (wide + self.u), self.top + (i % deep) * high
            best = state.classes[number] == shown
            things += self._row(
                state,
                state.classes[number],
                None if probabilities is None else float(values[number]),
                best,
                Rect(left, top, wide, high),
            )
        self.top += deep * high
        return things

    def _row(self, state: State, name: str, probability: float | None, best: bool, room: Rect) -> list[Thing]:
        size, baseline = round(0.95 * self.u), room.top + self.u
        percent = "" if probability is None else f"{100 * probability:.0f} %"
        free = room.width - text.width("100 %", size) - self.u // 2
        colour = WHITE if best else GREY
        track = Rect(room.left, baseline + round(0.28 * self.u), room.width, max(3, round(0.3 * self.u)))
        filled = Rect(track.left, track.top, round(track.width * (probability or 0.0)), track.height)
        return [
            Text(text.shorten(name, free, size, best), room.left, baseline, size, colour, best),
            Text(percent, room.right - text.width(percent, size), baseline, size, colour),
            Bar(track, TRACK),
            Bar(filled, _colour_of(state) if best else GREY),
        ]

    def _photos(self, thumbnails: Sequence[tuple[str, np.ndarray | None]], classes: int) -> list[Thing]:
        """Training photos: at the foot of a panel beside the picture, at the right of one below it."""
        size, gap = round(0.8 * self.u), self.u // 4
        title = round(1.2 * self.u)
        if self.low:
            columns, rows = THUMBNAILS, 1
            side = min(self.bottom - self.top - title, (self.right - self.left) // 2 // THUMBNAILS - gap)
            left, top = self.right - THUMBNAILS * (side + gap) + gap, self.top + title
            self.right = left - self.u
        else:
            above = (7 if classes == 2 else 4 + 1.9 * min(classes, MOST_ROWS)) * self.u
            wide, free = self.right - self.left, self.bottom - self.top - above - title
            columns = next((n for n in (2, 3) if -(-THUMBNAILS // n) * wide / n < free), THUMBNAILS)
            rows = -(-THUMBNAILS // columns)
            side = (self.right - self.left - (columns - 1) * gap) // columns
            left, top = self.left, self.bottom - rows * (side + gap)
            self.bottom = top - title
        things: list[Thing] = [Text("nearest training photos", left, top - self.u // 3, size, GREY)]
        for i, (name, image) in enumerate(thumbnails[:THUMBNAILS]):
            place = Rect(left + i % columns * (side + gap), top + i // columns * (side + gap), side, side)
            if image is not None:
                things.append(Picture(fitted(place, (image.shape[1], image.shape[0])), name, image))
            else:
                baseline = place.top + (side + size) // 2
                things += [Bar(place, TRACK), Text(text.shorten(name, side, size), place.left, baseline, size, WHITE)]
        return things

    def _foot(self, lines: Sequence[str]) -> list[Thing]:
        size = max(11, round(0.8 * self.u))
        things: list[Thing] = []
        if self.low:
            lines = ["   ".join(lines)]
        for line in reversed(lines):
            fitting = text.shorten(line, self.right - self.left, size)
            things.append(Text(fitting, self.left, self.bottom - round(0.2 * size), size, GREY))
            self.bottom -= round(1.35 * size)
        return things


def _colour_of(state: State) -> Colour:
    """Of the bar of the shown class."""
    return headline(state)[2] if state.answer and state.answer.prediction.verdict != "unlike" else GREY


def headline(state: State) -> tuple[str, str, Colour]:
    """(What is said, how probable it is, the colour that says how sure)."""
    if state.trouble or state.answer is None:
        return ("no label" if state.trouble else "waiting for the first label"), "", GREY
    prediction = state.answer.prediction
    if prediction.verdict == "label":
        return prediction.label, f"{100 * prediction.probability:.1f} %", how_sure(prediction.probability)
    return prediction.words, "", DOUBTFUL if prediction.verdict == "unsure" else STRANGE


def how_sure(probability: float) -> Colour:
    """From the colour of doubt at one half and below to that of certainty at 95 %."""
    share = min(1.0, max(0.0, (probability - 0.5) / 0.45))
    doubtful, sure = np.array(DOUBTFUL), np.array(SURE)
    blue, green, red = (doubtful + share * (sure - doubtful)).round().astype(int).tolist()
    return blue, green, red


class Slots:
    """Which classes have a row, and where: a class keeps its row while it has one."""

    def __init__(self) -> None:
        self._rows: list[int] = []

    def __call__(self, probabilities: Sequence[float] | np.ndarray, room: int) -> list[int]:
        """Numbers of classes, a row each: all of them where there is room, else the most probable."""
        count = len(probabilities)
        if room >= count:
            self._rows = list(range(count))
            return self._rows
        best = np.argsort(-np.asarray(probabilities), kind="stable")[: max(1, room)].tolist()
        kept = [row if row in best else None for row in (self._rows + [-1] * room)[: len(best)]]
        coming = iter([one for one in best if one not in kept])
        self._rows = [next(coming) if row is None else row for row in kept]
        return self._rows


def lowest(u: int, width: int, classes: int) -> int:
    """The height of a panel below the picture."""
    rows = 1 if classes <= 2 else min(3, -(-min(classes, MOST_ROWS) // columns_in(u, width)))
    return round(u * (3.9 + 2.0 * rows))


def columns_in(u: int, width: int) -> int:
    """How many columns of rows fit a width."""
    return max(1, (width - u) // (12 * u))
