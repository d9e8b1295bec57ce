"""Which zip archive it is: `.keras`, `.npz` or PyTorch's `.pth`."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path

from weights_convert.readers.archive import Archive
from weights_convert.tensor import Source, printable, refuse


@contextlib.contextmanager
def open_zip(path: Path) -> Iterator[Source]:
    """Open any of the three."""
    try:
        opened = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError) as error:
        refuse(path, f"is a damaged or truncated archive ({printable(error)[:80]}). Download or copy it again.")
    with opened, _reader(path, Archive(path, opened)) as source:
        yield source


def _reader(path: Path, archive: Archive) -> contextlib.AbstractContextManager[Source]:
    pickles = [name for name in archive.names if name.endswith("/data.pkl")]
    if len(pickles) == 1:
        from weights_convert.readers.torch_file import open_torch_zip

        return open_torch_zip(path, archive)
    if "model.weights.h5" in archive.names:
        from weights_convert.readers.keras_archive import open_keras

        return open_keras(path, archive)
    if archive.names and all(name.endswith(".npy") for name in archive.names):
        from weights_convert.readers.numpy_file import open_npz

        return open_npz(path, archive)
    found = ", ".join(printable(name) for name in list(archive.names)[:4]) or "nothing"
    refuse(path, f"is an archive of an unknown kind ({found}). Expected .keras, .npz, or PyTorch's .pth.")
