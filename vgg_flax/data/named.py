"""Pictures that a person names one by one or by the folder: paths, patterns, archives, videos, standard input."""

from __future__ import annotations

import glob
import hashlib
import os
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TextIO

import cv2
import numpy as np

from vgg_flax.data.decode import decode, opencv_name, read_bytes
from vgg_flax.data.folder import list_folder
from vgg_flax.data.listing import Listing
from vgg_flax.data.zipped import list_zip
from vgg_flax.errors import BadImage, UserError
from vgg_flax.network.extract import batch_size
from vgg_flax.network.preprocess import prepare_frame, resize
from vgg_flax.network.spec import Preprocessing

VIDEOS = {".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}
THREADS, LEAST_AHEAD = 4, 32
STDIN = "-"


class Picture(NamedTuple):
    """A picture that was asked for.

    Attributes:
      name: as it was named; of a file in a folder or archive with its path below that, of a frame with its number.
      image: uint8 RGB `[size, size, 3]`; None where it can't be read.
      content: SHA-256 of the encoded picture, hexadecimal; "" of a frame.
      reason: why it can't be read.
    """

    name: str
    image: np.ndarray | None
    content: str = ""
    reason: str = ""


Job = Callable[[], Picture]


def pictures(sources: Sequence[str], preprocessing: Preprocessing, stdin: TextIO) -> Iterator[Picture]:
    """Every picture that is named, in order, decoded by threads: while the network answers a batch, the next one.

    Args:
      sources: files, folders, patterns such as `photos/*.jpg`, .zip files, videos, or `-` for paths in `stdin`.
      stdin: a path a line.

    Raises:
      UserError: a source is not there, or holds no picture.
    """
    jobs = (job for source in sources for job in _jobs(source, preprocessing, stdin))
    ahead = max(LEAST_AHEAD, batch_size(preprocessing.image_size))  # and never more in memory
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[Picture]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) == ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _jobs(source: str, preprocessing: Preprocessing, stdin: TextIO) -> Iterator[Job]:
    if source == STDIN:
        yield from _files((line.rstrip("\r\n") for line in stdin if line.strip()), preprocessing)
        return
    path = Path(source)
    if path.is_dir():
        yield from _listed(list_folder(path), source, os.sep, preprocessing)
    elif path.is_file() and path.suffix.lower() in VIDEOS:
        yield from _frames(source, preprocessing)
    elif path.is_file() and (path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)):
        yield from _listed(list_zip(path), source, "/", preprocessing)
    elif path.exists():
        yield from _files([source], preprocessing)
    elif found := sorted(glob.glob(source, recursive=True)):  # noqa: PTH207 - a name may be absolute
        for name in found:
            yield from _jobs(name, preprocessing, stdin)
    else:
        raise UserError(f"{source}: no such file or folder, and no file fits it as a pattern.")


def _files(names: Iterable[str], preprocessing: Preprocessing) -> Iterator[Job]:
    for name in names:
        yield lambda name=name: _read(name, lambda: read_bytes(name), preprocessing)


def _listed(listing: Listing, source: str, separator: str, preprocessing: Preprocessing) -> Iterator[Job]:
    names = listing.pictures()
    if not names and not listing.left_out:
        raise UserError(f"{source} holds no pictures.")
    top = source.rstrip(separator)
    for name in names:
        yield lambda name=name: _read(f"{top}{separator}{name}", lambda: listing.read(name), preprocessing)
    for name, reason in listing.left_out.items():
        yield lambda name=name, reason=reason: Picture(f"{top}{separator}{name}", None, "", reason)


def _read(name: str, read: Callable[[], bytes], preprocessing: Preprocessing) -> Picture:
    try:
        data = read()
        return Picture(name, resize(decode(data), preprocessing), hashlib.sha256(data).hexdigest())
    except BadImage as bad:
        return Picture(name, None, "", str(bad))


def _frames(source: str, preprocessing: Preprocessing) -> Iterator[Job]:
    """Every frame of a video; decoded one after the other, resized by threads."""
    capture, index = cv2.VideoCapture(opencv_name(source)), 0
    try:
        while (grabbed := capture.read())[0]:
            frame, name = np.asarray(grabbed[1]), f"{source}#{index}"
            yield lambda frame=frame, name=name: Picture(name, prepare_frame(frame, preprocessing))
            index += 1
    finally:
        capture.release()
    if not index:
        yield lambda: Picture(source, None, "", "not a video that OpenCV can read")
