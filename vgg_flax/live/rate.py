"""How often something happens."""

from __future__ import annotations

import collections

SPAN = 2.0  # seconds that are looked back upon


class Rate:
    """Events per second of the last two seconds; 0 until there are two."""

    def __init__(self) -> None:
        self._times: collections.deque[float] = collections.deque()

    def tick(self, now: float) -> float:
        """Count an event at `now`, seconds of any clock; the rate."""
        self._times.append(now)
        while self._times[0] < now - SPAN:
            self._times.popleft()
        return self.value

    @property
    def value(self) -> float:
        span = self._times[-1] - self._times[0] if self._times else 0.0
        return (len(self._times) - 1) / span if span > 0 else 0.0
