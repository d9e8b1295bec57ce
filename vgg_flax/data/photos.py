"""Encoded pictures -> one memory-mapped uint8 array in the cache, made once for the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np

from vgg_flax.cache import cache_dir
from vgg_flax.console import bar
from vgg_flax.data import Dataset
from vgg_flax.data.decode import decode
from vgg_flax.errors import BadImage, UserError
from vgg_flax.files import write_atomic
from vgg_flax.network import preprocess
from vgg_flax.network.spec import Preprocessing

T = TypeVar("T")
THREADS = 8


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The usable pictures of a data set, decoded.

    Attributes:
      images: uint8 RGB `[n, size, size, 3]`, memory-mapped, read-only.
      kept: `[n]` index of each picture in the data set.
      contents: `[n]` SHA-256 of each encoded picture.
      bad: (name, reason) of the pictures that were left out.
      digest: of all bytes, all labels, and how they were decoded.
    """

    images: np.ndarray
    kept: np.ndarray
    contents: np.ndarray
    bad: tuple[tuple[str, str], ...]
    digest: str


def load_pictures(
    dataset: Dataset, preprocessing: Preprocessing, *, strict: bool = False, check: Callable[[], None] = lambda: None
) -> Pictures:
    """Read and decode every picture, or map what an earlier run decoded from the same bytes.

    Args:
      strict: raise UserError at the first bad picture instead of leaving it out.
      check: called between pictures; may raise to stop.
    """
    total = len(dataset.names)
    hashes = []
    for sha in prefetch(lambda i: _hash(dataset, i), total):
        check()
        hashes.append(sha)
    recipe = f"{preprocessing.image_size} {preprocessing.resize} opencv {cv2.__version__}"
    digest = hashlib.sha256("\n".join([recipe, *hashes]).encode()).hexdigest()
    folder = cache_dir() / "pictures" / digest[:32]
    if not (folder / "bad.json").is_file():
        _decode_all(dataset, preprocessing, folder, strict=strict, check=check)
    reasons = {int(i): reason for i, reason in json.loads((folder / "bad.json").read_text()).items()}
    if strict and reasons:
        index, reason = next(iter(reasons.items()))
        raise UserError(_strict_message(dataset.names[index], reason))
    kept = np.asarray([i for i in range(total) if i not in reasons], np.int64)
    if not len(kept):
        raise UserError(
            f"none of the {total} pictures in {dataset.source} can be read: {next(iter(reasons.values()))}."
        )
    return Pictures(
        images=np.load(folder / "images.npy", mmap_mode="r"),
        kept=kept,
        contents=np.asarray(hashes)[kept],
        bad=tuple((dataset.names[i], reason) for i, reason in reasons.items()),
        digest=hashlib.sha256(digest.encode() + dataset.labels.tobytes()).hexdigest(),
    )


def _hash(dataset: Dataset, index: int) -> str:
    try:
        return hashlib.sha256(dataset.read(index)).hexdigest()
    except BadImage as bad:
        return f"{bad}"


def _decode_all(
    dataset: Dataset, preprocessing: Preprocessing, folder: Path, *, strict: bool, check: Callable[[], None]
) -> None:
    """Fill `folder` with images.npy and bad.json; it appears only when it is complete."""

    def load(index: int) -> np.ndarray | str:
        try:
            return preprocess.resize(decode(dataset.read(index)), preprocessing)
        except BadImage as bad:
            return str(bad)

    total, size = len(dataset.names), preprocessing.image_size
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
    try:
        shape = (total, size, size, 3)
        images = np.lib.format.open_memmap(building / "all.npy", "w+", np.uint8, shape)
        good, reasons = 0, {}
        with bar("decoding pictures", total) as advance:
            for index, image in enumerate(prefetch(load, total)):
                check()
                if isinstance(image, str):
                    if strict:
                        raise UserError(_strict_message(dataset.names[index], image))
                    reasons[index] = image
                else:
                    images[good] = image
                    good += 1
                advance(1)
        _keep_first(images, good, building / "images.npy")
        write_atomic(building / "bad.json", json.dumps(reasons))
        try:
            building.rename(folder)
        except OSError:
            if not (folder / "bad.json").is_file():  # else another process was faster, with the same result
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _keep_first(images: np.memmap, count: int, path: Path) -> None:
    """Save the first `count` images; the file already has them all when nothing was bad."""
    images.flush()
    source = Path(str(images.filename))
    if count == len(images):
        source.rename(path)
        return
    kept = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *images.shape[1:]))
    for start in range(0, count, 256):
        kept[start : min(start + 256, count)] = images[start : min(start + 256, count)]
    kept.flush()
    source.unlink()


def _strict_message(name: str, reason: str) -> str:
    return f"{name}: {reason}. Mend or remove it, or leave out --strict to go on without it."
