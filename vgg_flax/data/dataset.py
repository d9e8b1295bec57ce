"""Labelled pictures, wherever they live, as one type."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Pictures with labels, not yet decoded.

    Attributes:
      source: what the user typed.
      classes: names, sorted; a label is an index into it.
      names: one for each picture, for tables and reports: the path below the data folder, or a number.
      labels: int32 `[n]`.
      own_splits: for each picture the split that the data itself assigns, or "" where it leaves that to us.
      read: index -> the encoded bytes of that picture. Raises BadImage. Called from several threads.
    """

    source: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    own_splits: np.ndarray
    read: Callable[[int], bytes]
