"""How fast it goes, and a line in the terminal that says so."""

from __future__ import annotations

import collections
import time

from rich.live import Live
from rich.text import Text

from vgg_flax import console


class Stopwatch:
    """Time spent in each stage of the loop, and the frames per second of the last second or so."""

    def __init__(self) -> None:
        self.frames = 0
        self._seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        self._recent: collections.deque[float] = collections.deque(maxlen=30)
        self.start()

    def start(self) -> None:
        self._started = self._last = time.monotonic()

    def lap(self, stage: str) -> float:
        """Book the time since the last lap on `stage`, and return it in milliseconds."""
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        self._seconds[stage] += seconds
        return 1000 * seconds

    def frame_done(self) -> None:
        self.frames += 1
        self._recent.append(time.monotonic())

    @property
    def fps(self) -> float:
        """Frames per second over the last 30 frames; 0 until there are two."""
        span = self._recent[-1] - self._recent[0] if self._recent else 0.0
        return (len(self._recent) - 1) / span if span > 0 else 0.0

    def summary(self) -> str:
        if not self.frames:
            return "no frame labelled"
        seconds = self._last - self._started
        stages = ", ".join(f"{stage} {1000 * s / self.frames:.1f}" for stage, s in self._seconds.items())
        rate = f"{self.frames / seconds:.1f} frames per second" if seconds > 0 else "in no time"
        return f"{self.frames} frames in {seconds:.1f} s, {rate}; milliseconds a frame: {stages}"


class StatusLine:
    """One line that keeps changing in a terminal; in a pipe or file, a plain line a second at most."""

    def __init__(self) -> None:
        shown = console.results
        self._live = Live(console=shown, transient=True, refresh_per_second=10) if shown.is_terminal else None
        self._printed = -1e9

    def __enter__(self) -> StatusLine:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, text: str) -> None:
        text = "".join(c if c.isprintable() else "?" for c in text)  # class names come from folders and files
        if self._live:
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))
        elif time.monotonic() - self._printed >= 1:
            console.show_line(text)
            self._printed = time.monotonic()

    def busy(self, text: str) -> None:
        """What a person waits for, said in a terminal only."""
        if self._live:
            self._live.update(Text(text))

    def note(self, text: str) -> None:
        """Something worth a line of its own, on standard error."""
        if self._live:
            self._live.stop()  # the line makes room for the note
        console.say(f"note: {text}")
        if self._live:
            self._live.start()
