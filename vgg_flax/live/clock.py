"""When a picture was taken, by the source's own clock."""

from __future__ import annotations

OWN = 1.0  # seconds; a stamp that is so close to our clock is on our clock
LATEST = 10.0  # seconds; a picture that seems older than that shows that the clock was set
WINDOW = 300.0  # seconds after which the least delay is measured anew: two clocks drift apart
PROOF = 10.0  # seconds after which a clock that runs too slowly is found out
SLOWEST = 0.7  # of real time


class SourceClock:
    """Turns stamps on a clock of unknown beginning into `time.monotonic()`.

    The picture that was least delayed, lately, is taken to have come at once. All others have their true age beside
    it, however late they come and however many at a time.
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # stamp and arrival
        self._last = 0.0
        self._offsets = (0.0, 0.0)  # least of the window before, and of this one
        self._turned = 0.0
        self._broken = False

    def captured(self, stamp: float | None, arrived: float) -> float:
        """When a picture was taken that bears `stamp` and came at `arrived`; `arrived` where that is unknown."""
        if stamp is None or self._broken:
            return arrived
        if 0 <= arrived - stamp < OWN:  # as Linux stamps the pictures of cameras
            return stamp
        offset = arrived - stamp
        if self._first is None or stamp < self._last or offset - min(self._offsets) > LATEST:
            self._first, self._offsets, self._turned = (stamp, arrived), (offset, offset), arrived
        self._last = stamp
        if arrived - self._turned > WINDOW:
            self._offsets, self._turned = (self._offsets[1], offset), arrived
        self._offsets = (self._offsets[0], min(self._offsets[1], offset))
        elapsed = arrived - self._first[1]
        if elapsed > PROOF and stamp - self._first[0] < SLOWEST * elapsed:
            self._broken = True
            return arrived
        return stamp + min(self._offsets)
