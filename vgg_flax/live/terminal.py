"""The face in a terminal: a line that says what is said."""

from __future__ import annotations

import time

from rich.live import Live
from rich.text import Text

from vgg_flax import console
from vgg_flax.live.state import State


class Terminal:
    """One line that keeps changing; in a pipe or file, a plain line a second at most."""

    def __init__(self) -> None:
        shown = console.results
        self._live = Live(console=shown, transient=True, refresh_per_second=10) if shown.is_terminal else None
        self._printed = -1e9

    def __enter__(self) -> Terminal:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, state: State) -> None:
        """Raises BrokenPipeError when nobody reads it any more."""
        if state.answer or state.trouble:
            self.line(state.summary())

    def line(self, text: str) -> None:
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
