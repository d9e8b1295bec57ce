"""Labelled pictures, from a name to photos in splits."""

from __future__ import annotations

import zipfile
from pathlib import Path

from vgg_flax.data.dataset import Dataset
from vgg_flax.errors import UserError


def open_dataset(source: str, *, label: str | None = None, group: str | None = None) -> Dataset:
    """`digits`, `tfds:NAME`, a folder, a .zip of one, or a .csv table.

    Args:
      label: a regular expression; its group 1, found in a file's name, is the class.
      group: `folder`, or a regular expression; see `Dataset.grouped`.

    Raises:
      UserError: there is nothing to train on.
    """
    dataset = _opened(source, label)
    return dataset.grouped(group) if group else dataset


def _opened(source: str, label: str | None) -> Dataset:
    path = Path(source)
    is_file = source != "digits" and not source.startswith("tfds:")
    if not is_file or (path.suffix.lower() == ".csv" and not path.is_dir()):
        if label:
            raise UserError(f"--label finds classes in the names of files; --data {source} has labels of its own.")
        return _labelled(source)
    if path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)):
        from vgg_flax.data.zipped import list_zip

        listing = list_zip(path)
    else:
        from vgg_flax.data.folder import list_folder

        listing = list_folder(path)
    if label:
        from vgg_flax.data.labelled import by_names

        return by_names(listing, label)
    from vgg_flax.data.layout import by_folders

    return by_folders(listing)


def _labelled(source: str) -> Dataset:
    if source == "digits":
        from vgg_flax.data import digits

        return digits.open_dataset()
    if source.startswith("tfds:"):
        from vgg_flax.data import tfds

        return tfds.open_dataset(source.removeprefix("tfds:"))
    from vgg_flax.data import table

    return table.open_dataset(Path(source))
