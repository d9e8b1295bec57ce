"""Labelled pictures, wherever they live, as one type."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vgg_flax.console import counted
from vgg_flax.errors import UserError


class LeftOut(NamedTuple):
    """A file that is not used: its name, why, and the class it would have had, "" where that is unknown."""

    name: str
    reason: str
    label: str = ""


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
      below: for each picture its path below the folder of its class; empty where there are no folders.
      keys: str arrays `[n]`; pictures with the same key that is not "" must share a side of the split.
      left_out: files that were found and can't be used.
      notes: how the data was understood, a line each.
      warnings: what may surprise, a line each.
    """

    source: str
    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: np.ndarray
    own_splits: np.ndarray
    read: Callable[[int], bytes]
    below: tuple[str, ...] = ()
    keys: tuple[np.ndarray, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def grouped(self, group: str) -> Dataset:
        """The same pictures with one more key: `folder`, the first folder below that of the class; or group 1 of a
        regular expression that is looked for in the name. Pictures without one stand alone.

        Raises:
          UserError: no regular expression with a group 1, or it fits no name.
        """
        if group == "folder":
            found = [path.partition("/")[0] if "/" in path else "" for path in self.below]
        else:
            pattern = compiled("group", group)
            matches = [pattern.search(name) for name in self.names]
            found = [(match[1] or "") if match else "" for match in matches]
        keys = np.asarray(found or [""] * len(self.names), str)
        named = int((keys != "").sum())
        if not named:
            what = "has a folder below that of its class" if group == "folder" else "fits"
            raise UserError(f"--group {group}: no name in {self.source} {what}; a name is {self.names[0]!r}.")
        groups = counted(len(np.unique(keys[keys != ""])), "group")
        note = f"--group {group}: {groups} of {counted(named, 'photo')}"
        if alone := len(keys) - named:
            note += f"; {counted(alone, 'photo without a group stands', 'photos without a group stand')} alone"
        return dataclasses.replace(self, keys=(*self.keys, keys), notes=(*self.notes, note))


def compiled(option: str, pattern: str) -> re.Pattern[str]:
    """A regular expression that a person typed. Raises UserError when it is none, or has no group 1."""
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise UserError(f"--{option} {pattern} is no regular expression: {error}.") from None
    if not found.groups:
        raise UserError(f"--{option} {pattern} has no group, expected parentheses around the part that counts.")
    return found
