"""Labelled pictures, from a name to photos in splits."""

from __future__ import annotations

from pathlib import Path

from vgg_flax.data.dataset import Dataset


def open_dataset(source: str, *, label: str | None = None, group: str | None = None) -> Dataset:
    """`digits`, `tfds:NAME`, or a folder.

    Args:
      label: a regular expression; its group 1, found in a file's name, is the class.
      group: `folder`, or a regular expression; see `Dataset.grouped`.

    Raises:
      UserError: there is nothing to train on.
    """
    dataset = _opened(source, label)
    return dataset.grouped(group) if group else dataset


def _opened(source: str, label: str | None) -> Dataset:
    if source == "digits":
        from vgg_flax.data import digits

        return digits.open_dataset()
    if source.startswith("tfds:"):
        from vgg_flax.data import tfds

        return tfds.open_dataset(source.removeprefix("tfds:"))
    from vgg_flax.data import folder

    return folder.open_dataset(Path(source))
