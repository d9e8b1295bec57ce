"""A folder of photos: one sub-folder per class, or train/ val/ test/ with one folder per class in each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vgg_flax.data.dataset import Dataset
from vgg_flax.data.decode import read_bytes
from vgg_flax.errors import UserError
from vgg_flax.settings import SPLITS

SYNONYMS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif", ".jp2",
    ".pbm", ".pgm", ".ppm", ".pnm", ".heic", ".heif",
)  # fmt: skip


def open_dataset(folder: Path) -> Dataset:
    """List the pictures; nothing is decoded, moved or changed.

    Raises:
      UserError: no folder, no classes, an empty class, or splits that disagree about the classes.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise UserError(f"--data {folder} {what}, expected a folder with one sub-folder of photos per class.")
    split_folders = _split_folders(folder)
    classes = _classes(folder, split_folders)
    files: list[Path] = []
    labels: list[int] = []
    splits: list[str] = []
    tops: list[Path] = []
    for split, top in split_folders:
        for label, name in enumerate(classes):
            found = sorted(_pictures(top / name))
            if not found:
                raise UserError(
                    f"class folder {top / name} holds no pictures, expected files such as .jpg or .png: "
                    "add some, or remove the folder."
                )
            files += found
            labels += [label] * len(found)
            splits += [split] * len(found)
            tops += [top / name] * len(found)

    def read(index: int) -> bytes:
        return read_bytes(files[index])

    return Dataset(
        source=str(folder),
        classes=classes,
        names=tuple(str(file.relative_to(folder)) for file in files),
        labels=np.asarray(labels, np.int32),
        own_splits=np.asarray(splits, "<U5"),
        read=read,
        below=tuple(str(file.relative_to(top)) for file, top in zip(files, tops, strict=True)),
    )


def _split_folders(folder: Path) -> list[tuple[str, Path]]:
    """[(split, folder of its classes)], or [("", folder)] where we split ourselves."""
    known = [(SYNONYMS[sub.name.lower()], sub) for sub in _subfolders(folder) if sub.name.lower() in SYNONYMS]
    if not any(split == "train" for split, _ in known):
        return [("", folder)]
    for split in SPLITS:
        same = [sub.name for name, sub in known if name == split]
        if len(same) > 1:
            raise UserError(f"{folder} has {' and '.join(same)}, which both mean {split}: keep one of them.")
    return sorted(known, key=lambda pair: SPLITS.index(pair[0]))


def _classes(folder: Path, split_folders: list[tuple[str, Path]]) -> tuple[str, ...]:
    names = {top: tuple(sub.name for sub in _subfolders(top)) for _, top in split_folders}
    first_top = split_folders[0][1]
    first = names[first_top]
    if len(first) < 2:
        found = f"one class, {first[0]!r}" if first else "no class folders"
        raise UserError(f"{first_top} has {found}, expected at least two sub-folders of photos, one per class.")
    for top, other in names.items():
        if other != first:
            problems = [f"{name!r} is missing from {top.name}" for name in first if name not in other]
            problems += [f"{name!r} is missing from {first_top.name}" for name in other if name not in first]
            raise UserError(
                f"{len(other)} classes in {top} but {len(first)} in {first_top}: {', '.join(problems)}. "
                "Expected the same class folders in every split."
            )
    return first


def _subfolders(folder: Path) -> list[Path]:
    return sorted(sub for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))


def _pictures(folder: Path) -> Iterator[Path]:
    """Everything below `folder` named like a picture, also what turns out not to be one."""
    seen = set()
    for parent, subfolders, names in os.walk(folder, followlinks=True):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in seen:  # a link that leads back up
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        posing = [name for name in subfolders if Path(name).suffix.lower() in SUFFIXES]
        subfolders[:] = [name for name in subfolders if name not in posing and not name.startswith(".")]
        for name in names + posing:
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield Path(parent) / name
