"""The view as a video: frames of a State, painted and written in a thread of their own."""

from __future__ import annotations

import time

from vgg_flax.live.painter import Painter
from vgg_flax.live.recording import Recording
from vgg_flax.live.scene import natural_size
from vgg_flax.live.state import State


class Film:
    """Paints each State in the size that suits the first one's frame, and appends it to a recording.

    Args:
      recording: takes the views.
      live: the time of a view is when it was seen, otherwise its frame's.
    """

    def __init__(self, recording: Recording, painter: Painter, live: bool):
        self.recording = recording
        self._painter, self._live = painter, live
        self._size: tuple[int, int] | None = None
        self._began = time.monotonic()

    def add(self, state: State) -> None:
        """Raises NotSaved when the disk refuses."""
        if state.frame is None:
            return
        if self._size is None:
            high, wide = state.frame.image.shape[:2]
            self._size = natural_size(wide, high, len(state.classes))
        at = time.monotonic() - self._began if self._live else state.frame.time_s
        self.recording.add_view(self._painter.paint(state, *self._size), at)

    @property
    def count(self) -> int:
        return self.recording.frames

    def close(self) -> None:
        self.recording.close()

    def __str__(self) -> str:
        return str(self.recording)
