"""The newest frame, in one slot."""

from __future__ import annotations

import threading

from vgg_flax.live.capture import Frame


class Latest:
    """Whoever fills the slot does not wait for whoever empties it, and who empties it gets the newest frame.

    Attributes:
      every: nothing is lost: the slot is filled again once it was emptied.
    """

    def __init__(self, every: bool = False):
        self.every = every
        self._frame: Frame | None = None
        self._ended = False
        self._changed = threading.Condition()

    def put(self, frame: Frame) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self.every or self._frame is None or self._ended)
            if not self._ended:
                self._fill(frame)

    def take(self) -> Frame | None:
        """A frame, as soon as there is one, and only once; None when no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._ended)
            frame = self._frame
            self._fill(None)
            return frame

    def drop(self) -> None:
        """Forget what was not taken: it is too old by now."""
        with self._changed:
            self._fill(None)

    def end(self, at_once: bool = False) -> None:
        """No more will come; what is there is still given out, but not if it ends `at_once`."""
        with self._changed:
            self._ended = True
            self._fill(None if at_once else self._frame)

    def _fill(self, frame: Frame | None) -> None:
        self._frame = frame
        self._changed.notify_all()
