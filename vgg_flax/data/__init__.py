"""Labelled pictures, from a name to photos in splits."""

from __future__ import annotations

from pathlib import Path

from vgg_flax.data.dataset import Dataset


def open_dataset(source: str) -> Dataset:
    """`digits`, `tfds:NAME`, or a folder. Raises UserError when there is nothing to train on."""
    if source == "digits":
        from vgg_flax.data import digits

        return digits.open_dataset()
    if source.startswith("tfds:"):
        from vgg_flax.data import tfds

        return tfds.open_dataset(source.removeprefix("tfds:"))
    from vgg_flax.data import folder

    return folder.open_dataset(Path(source))
