"""Folders of a listing, and how many pictures lie in and below each."""

from __future__ import annotations

import collections
from collections.abc import Container, Iterator

from vgg_flax.data.listing import Listing
from vgg_flax.data.splitnames import role


class Tree:
    """How many pictures lie in and below each folder."""

    def __init__(self, listing: Listing):
        self.source = listing.source
        self.pictures = listing.pictures()
        self.direct = collections.Counter(name.rpartition("/")[0] for name in self.pictures)
        self.below = collections.Counter(folder for name in self.pictures for folder in above(name))
        self._inside: dict[str, list[str]] = collections.defaultdict(list)
        for folder in listing.folders:
            self._inside[folder.rpartition("/")[0]].append(folder)

    def inside(self, folder: str) -> list[str]:
        """Paths of the folders directly in a folder, sorted."""
        return self._inside[folder]

    def unwrapped(self, folder: str, classes: Container[str] = ()) -> str:
        """The folder itself, or the only thing that it holds if that is a folder of folders and no class; and so on."""
        while not self.direct[folder] and len(inner := self.inside(folder)) == 1:
            [only] = inner
            found = role(last(only))
            means_split = found is not None and found.plain and not role(last(folder))
            if not self.inside(only) or means_split or last(only) in classes:
                break
            folder = only
        return folder

    def has_classes(self, folder: str) -> bool:
        """Whether pictures lie in folders inside this one."""
        return any(self.below[inner] for inner in self.inside(folder))

    def shown(self, folder: str) -> str:
        """As a person would write it."""
        return f"{self.source}/{folder}" if folder else self.source


def last(folder: str) -> str:
    """The last part of a path."""
    return folder.rpartition("/")[2]


def above(name: str) -> Iterator[str]:
    """Every folder that holds a file, the innermost first, "" for the top."""
    while name:
        name = name.rpartition("/")[0]
        yield name
