"""A folder of photos on the disk."""

from __future__ import annotations

import os
from pathlib import Path

from vgg_flax.data.dataset import Dataset
from vgg_flax.data.decode import read_bytes
from vgg_flax.data.layout import by_folders
from vgg_flax.data.listing import HEAD, Listing, has_suffix, is_hidden
from vgg_flax.errors import UserError


def open_dataset(folder: Path) -> Dataset:
    """The pictures of a folder of class folders; nothing is decoded, moved or changed.

    Raises:
      UserError: no folder, no classes, an empty class, or splits that can't be used.
    """
    return by_folders(list_folder(folder))


def list_folder(folder: Path) -> Listing:
    """Every file below a folder. Links are followed, but not in circles.

    Raises:
      UserError: there is no such folder, or it can't be read.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(
            f"--data {folder} {what}, expected a folder with one sub-folder of photos per class, a .zip of it, "
            "or a .csv with the columns path and label."
        )
    try:
        walk = _Walk(folder)
    except OSError as error:
        raise UserError(f"--data {folder} can't be listed: {error.filename}: {error.strerror}.") from None

    def read(name: str) -> bytes:
        return read_bytes(folder / name)

    def head(name: str) -> bytes:
        try:
            if not (folder / name).is_file():  # opening a pipe would wait for ever
                return b""
            with (folder / name).open("rb") as file:
                return file.read(HEAD)
        except OSError:
            return b""

    return Listing(str(folder), tuple(sorted(walk.names)), tuple(sorted(walk.folders)), read, head, walk.links)


class _Walk:
    """All files and folders below a top, as paths with slashes, and where links lead."""

    def __init__(self, top: Path):
        self.top, self.real = top, top.resolve()
        self.names: list[str] = []
        self.folders: list[str] = []
        self.links: dict[str, str] = {}
        status = top.stat()
        self._enter("", "", frozenset({(status.st_dev, status.st_ino)}), linked=None)

    def _enter(self, folder: str, prefix: str, above: frozenset[tuple[int, int]], linked: str | None) -> None:
        """List one folder.

        Args:
          above: device and inode of this folder and of those that it was reached through.
          linked: where this folder is in truth, below the same top, if a link led to it.
        """
        with os.scandir(self.top / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
        for entry in found:
            if is_hidden(entry.name):
                continue
            name = prefix + entry.name
            target = self._target(entry) if entry.is_symlink() else linked and f"{linked}/{entry.name}"
            if not _is_folder(entry) or (prefix and has_suffix(entry.name)):  # a folder that poses as a picture is none
                self.names.append(name)
                if target:
                    self.links[name] = target
                continue
            status = entry.stat()
            if (status.st_dev, status.st_ino) in above:  # a link that leads back up
                continue
            if entry.is_symlink() and linked:  # links among linked folders would be ever more ways to the same files
                continue
            self.folders.append(name)
            self._enter(name, f"{name}/", above | {(status.st_dev, status.st_ino)}, target)

    def _target(self, link: os.DirEntry[str]) -> str | None:
        """Where a link leads, if that is below the top."""
        try:
            return Path(link.path).resolve().relative_to(self.real).as_posix()
        except (OSError, ValueError, RuntimeError):  # elsewhere, or a circle
            return None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
