"""Work done ahead by threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
THREADS = 8


def prefetch(fetch: Callable[[int], T], count: int, ahead: int = 32) -> Iterator[T]:
    """fetch(0), fetch(1), ... in order, computed ahead by threads."""
    import grain

    options = grain.ReadOptions(num_threads=min(THREADS, ahead), prefetch_buffer_size=ahead)
    dataset: Any = grain.MapDataset.range(count).map(lambda i: fetch(int(i))).to_iter_dataset(options)
    iterator = iter(dataset)
    try:
        yield from iterator
    finally:
        iterator.close()
