"""Which pictures are nearly the same: difference hashes of whole pictures, and the pairs that are few bits apart.

A difference hash keeps, for a grey thumbnail of 17 x 16 pixels, whether each pixel is brighter than its left neighbour:
256 bits that scaling, recompression and a change of light leave nearly alone. Krawetz, "Kind of Like That", 2013.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

VERSION = 1  # of the bits that come out; part of the name under which they are kept
SIDE = 16
HASH_BYTES = SIDE * SIDE // 8
NEAR = 24  # of 256 bits; unrelated photos are some 128 apart
LEAST_SIDE = 32  # pixels: below this median short side a hash of 17 x 16 says nothing
BLOCK = 4_000_000  # pairs compared at a time


def difference_hash(image: np.ndarray) -> np.ndarray:
    """uint8 RGB `[height, width, 3]`, the whole picture -> uint8 `[32]`: 256 bits, row by row."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def near_pairs(hashes: np.ndarray, advance: Callable[[int], None] = lambda count: None) -> np.ndarray:
    """Every pair of hashes at most NEAR bits apart: int64 `[pairs, 2]`, the lower index first.

    Exact: all pairs are compared, in blocks, so memory grows with the number of hashes and not with its square.

    Args:
      hashes: uint8 `[n, 32]`.
      advance: called with the number of hashes that are done; may raise to stop.
    """
    words = np.ascontiguousarray(hashes).view(np.uint64).T  # [4, n]
    count, start, found = len(hashes), 0, []
    while start < count:
        end = min(count, start + max(1, BLOCK // (count - start)))
        distance = np.zeros((end - start, count - start), np.uint16)
        for word in words:
            distance += np.bitwise_count(word[start:end, None] ^ word[None, start:])
        rows, columns = np.nonzero(distance <= NEAR)
        later = columns > rows
        found.append(np.stack([rows[later], columns[later]], axis=1) + start)
        advance(end - start)
        start = end
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)
