"""Rows that are kept in memory where the disk can't take them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

SHARE = 0.75  # of the available memory; the rest is for what computes the rows


class MemoryRows:
    """Rows in the order in which they were added."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype):
        self._blocks: list[np.ndarray] = [np.empty((0, *shape), dtype)]
        self._ends = np.zeros(1, np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def append(self, rows: np.ndarray) -> None:
        """Keep `rows` `[n, *shape]`, which nobody may change afterwards."""
        self._blocks.append(rows)
        self._ends = np.append(self._ends, len(self) + len(rows))

    def take(self, positions: np.ndarray, field: str | None, out: np.ndarray, where: np.ndarray) -> None:
        """Write the rows at `positions` `[n]` to `out[where]`."""
        blocks = np.searchsorted(self._ends, positions, side="right")
        for number in np.unique(blocks):
            chosen = blocks == number
            block = self._blocks[number] if field is None else self._blocks[number][field]
            out[where[chosen]] = block[positions[chosen] - self._ends[number - 1]]


def available_memory() -> int:
    """Bytes that can be used without swapping, as the system estimates them."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, OSError, ValueError):  # unknown, as on Windows
            return sys.maxsize
