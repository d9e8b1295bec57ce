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
        self._ended = self._closed = False
        self._changed = threading.Condition()

    def put(self, frame: Frame) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self.every or self._frame is None or self._ended)
            if not self._ended:
                self._fill(frame)

    def again(self, frame: Frame) -> None:
        """A frame that was there already, unless a newer one waits; also after the end."""
        with self._changed:
            if self._frame is None and not self._closed:
                self._fill(frame)

    def take(self, after_end: bool = False) -> Frame | None:
        """A frame, as soon as there is one, and only once; None when no more will come.

        Args:
          after_end: wait for what may come `again`, until it ends at once.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._frame is not None or self._closed or (self._ended and not after_end))
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
            self._ended, self._closed = True, self._closed or at_once
            self._fill(None if at_once else self._frame)

    def _fill(self, frame: Frame | None) -> None:
        self._frame = frame
        self._changed.notify_all()
