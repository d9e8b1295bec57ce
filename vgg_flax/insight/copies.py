"""Near-copies: the same photo, encoded again, scaled, cropped, mirrored or slightly turned.

The network's features, and small thumbnails as they are and mirrored, propose each picture's nearest neighbours; laying
one picture over the other decides. Two photos of the same thing have like features, but only copies of one photo lie on
each other pixel by pixel. The best affine map is found by maximising the correlation: Evangelidis and Psarakis,
"Parametric Image Alignment Using Enhanced Correlation Coefficient Maximization", 2008.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from vgg_flax.console import bar
from vgg_flax.data.prefetch import prefetch
from vgg_flax.insight.neighbours import nearest

PROPOSED = 3  # neighbours of each picture that are compared with it
GLANCE = 12  # pixels of the side of a small thumbnail
LIKE_AT_FIRST_SIGHT = 0.8  # squared distance of small thumbnails of length 1
FARTHEST = 0.6  # squared distance of features of length 1: farther away, no copy was seen
LEAST_OVERLAP = 0.6  # of the picture
LEAST_CONTRAST = 2.0  # standard deviation in grey levels, below which there is nothing to compare
CHUNK = 256  # pictures that are read at a time


class Pair(NamedTuple):
    """Two pictures, the lower index first, and how well one lies on the other, at most 1."""

    first: int
    second: int
    likeness: float
    mirrored: bool


@dataclasses.dataclass(frozen=True)
class _Stage:
    """How exactly two pictures are compared.

    Attributes:
      side: pixels.
      blur: side of the filter, in pixels, without which the search sees no way from afar.
      iterations, precision: where the search ends; precision in correlation.
      least: likeness of a copy.
    """

    side: int
    blur: int
    iterations: int
    precision: float
    least: float


# Planted copies reached 0.93 in the first stage and 0.990 in the second; different photos of one hand 0.957 at most.
# See docs/accuracy.md.
COARSE, FINE = _Stage(24, 5, 30, 1e-3, 0.75), _Stage(64, 3, 30, 1e-3, 0.97)


def near_copies(
    images: Any,
    rows: np.ndarray,
    distances: np.ndarray,
    more: np.ndarray,
    check: Callable[[], None] = lambda: None,
) -> list[Pair]:
    """Every pair of copies among the pictures that are most alike.

    Args:
      images: uint8 RGB `[n, size, size, 3]`, read when indexed; n pictures of different contents.
      rows, distances: int and float32 `[n, k]`, as `neighbours.nearest` gives them.
      more: int `[m, 2]`, pairs to be compared as well.
      check: called between pairs; may raise to stop.
    """
    grey = _thumbnails(images, len(rows))
    near = np.nonzero(distances[:, :PROPOSED] <= FARTHEST)
    by_features = np.stack([near[0], rows[near]], axis=1)
    pairs = np.concatenate([by_features, *_alike_at_first_sight(grey), more.reshape(-1, 2)])
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)  # each once, the lower index first
    if not len(pairs):
        return []
    found = []

    def compare(k: int) -> Pair | None:
        first, second = map(int, pairs[k])
        return laid_over(grey[first], grey[second], first, second)

    with bar("comparing likely copies", len(pairs), summary=False) as advance:
        for pair in prefetch(lambda k: (compare(k),), len(pairs)):
            check()
            advance(1)
            found += [one for one in pair if one]
    return found


def groups_of(pairs: list[Pair], count: int) -> np.ndarray:
    """For each of `count` pictures the number of its group of copies, of one where it has none: int `[count]`."""
    ends = np.array([(pair.first, pair.second) for pair in pairs], np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1]


def laid_over(one: np.ndarray, other: np.ndarray, first: int = 0, second: int = 1) -> Pair | None:
    """The pair, if one picture is a copy of the other, mirrored or not.

    Args:
      one, other: uint8 grey `[64, 64]`.
    """
    for mirrored in (False, True):
        turned = np.ascontiguousarray(other[:, ::-1]) if mirrored else other
        for fixed, moving in ((one, turned), (turned, one)):  # the search may go astray one way and not the other
            likeness, found = _align(fixed, moving, COARSE, np.eye(2, 3, dtype=np.float32))
            if likeness >= COARSE.least:
                found[:, 2] *= FINE.side / COARSE.side
                likeness, _ = _align(fixed, moving, FINE, found)
                if likeness >= FINE.least:
                    return Pair(first, second, round(likeness, 4), mirrored)
    return None


def _alike_at_first_sight(grey: np.ndarray) -> list[np.ndarray]:
    """For each picture the one most like it, as it is and mirrored, where it is like it at all: int `[m, 2]` twice.

    Args:
      grey: uint8 `[n, 64, 64]`.
    """
    whole = np.ones((GLANCE, GLANCE), bool)
    small = np.stack([_details(_smooth(picture, GLANCE), whole).reshape(GLANCE, GLANCE) for picture in grey])
    flat, found = small.reshape(len(grey), -1), []
    for others in (None, np.ascontiguousarray(small[:, :, ::-1]).reshape(len(grey), -1)):
        rows, distances = nearest(flat, 1, others)
        near = np.nonzero(distances <= LIKE_AT_FIRST_SIGHT)
        found.append(np.stack([near[0], rows[near]], axis=1))
    return found


def _thumbnails(images: Any, count: int) -> np.ndarray:
    """uint8 grey `[n, 64, 64]`."""
    grey = np.empty((count, FINE.side, FINE.side), np.uint8)
    for start in range(0, count, CHUNK):
        for i, image in enumerate(images[start : start + CHUNK], start):
            grey[i] = thumbnail(image)
    return grey


def thumbnail(image: np.ndarray) -> np.ndarray:
    """uint8 RGB `[height, width, 3]` -> uint8 grey `[64, 64]`, the whole picture."""
    return cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (FINE.side, FINE.side), interpolation=cv2.INTER_AREA)


def _align(one: np.ndarray, other: np.ndarray, stage: _Stage, start: np.ndarray) -> tuple[float, np.ndarray]:
    """Lay a picture over another one.

    Args:
      one, other: uint8 grey `[64, 64]`.
      start: float32 `[2, 3]`, where the search begins: the map from pixels of one to those of the other.

    Returns:
      (correlation where they overlap, -1 to 1; the best map).
    """
    fixed, moving = _smooth(one, stage.side), _smooth(other, stage.side)
    if min(fixed.std(), moving.std()) < LEAST_CONTRAST:
        return -1.0, start
    limits = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, stage.iterations, stage.precision)
    try:
        found: Any = cv2.findTransformECC(fixed, moving, start, cv2.MOTION_AFFINE, limits, None, stage.blur)  # type: ignore
    except cv2.error:  # it does not converge: nothing in them lies on each other
        return -1.0, start
    size, flags = (stage.side, stage.side), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    inside = cv2.warpAffine(np.ones(size, np.float32), found[1], size, flags=flags) > 0.99
    if inside.mean() < LEAST_OVERLAP:
        return -1.0, start
    laid = cv2.warpAffine(moving, found[1], size, flags=flags)
    return _correlation(_details(fixed, inside), _details(laid, inside)), found[1]


def _smooth(grey: np.ndarray, side: int) -> np.ndarray:
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.GaussianBlur(small.astype(np.float32), (0, 0), 1.0)


def _details(smooth: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Without the slow changes of light, in which any two portraits are alike: float32 `[m]`, the pixels inside."""
    weights, wide = inside.astype(np.float32), inside.shape[0] / 12
    around = cv2.GaussianBlur(smooth * weights, (0, 0), wide) / np.maximum(
        cv2.GaussianBlur(weights, (0, 0), wide), 1e-6
    )
    return (smooth - around)[inside]


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one - one.mean(), other - other.mean()
    return float((one * other).sum() / np.sqrt((one * one).sum() * (other * other).sum() + 1e-9))
