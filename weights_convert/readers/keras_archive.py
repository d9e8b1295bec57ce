"""Keras 3's `.keras`: a zip of config.json, metadata.json and model.weights.h5."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from weights_convert.readers.archive import Archive
from weights_convert.readers.hdf5 import describe
from weights_convert.tensor import MAX_FILE_BYTES, MAX_JSON_BYTES, Source, printable, refuse


@contextlib.contextmanager
def open_keras(path: Path, archive: Archive) -> Iterator[Source]:
    """Open the archive. Its configuration is read as plain data; nothing in it is built or run."""
    data = archive.read("model.weights.h5", MAX_FILE_BYTES)
    config = _json(path, archive, "config.json")
    version = _json(path, archive, "metadata.json") or {}
    text = str(version.get("keras_version", "3")) if isinstance(version, dict) else "3"
    try:
        file = h5py.File(io.BytesIO(data), "r")
    except OSError:
        refuse(path, "model.weights.h5 in it is a damaged HDF5 file.")
    with file:
        source = describe(path, file, data)
        yield dataclasses.replace(source, format=f"Keras {printable(text)[:20]} .keras, whole model", config=config)


def _json(path: Path, archive: Archive, name: str) -> Any:
    if name not in archive.names:
        return None
    try:
        return json.loads(archive.read(name, MAX_JSON_BYTES))
    except (ValueError, RecursionError):
        refuse(path, f"{name} is not valid JSON.")
