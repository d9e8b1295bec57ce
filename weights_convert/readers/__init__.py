"""Weight files -> named tensors. The format is told by a file's first bytes, never by its name."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

from weights_convert.readers import foreign
from weights_convert.tensor import MAX_JSON_BYTES, Source, refuse, regular_file

KNOWN = "Keras .h5 or .keras, ONNX, safetensors, PyTorch .pth, NumPy .npz or .npy, tensorflow.js"


@contextlib.contextmanager
def open_source(path: str | Path) -> Iterator[Source]:
    """Open a weight file; its tensors can be read until the `with` block ends.

    Raises:
      WeightFileError: no known format, damaged, or not safe to read.
    """
    path = Path(path)
    if not path.exists() and (index := path.with_name(f"{path.name}.index")).exists():
        path = index  # a checkpoint of TensorFlow is called by what its files have in common
    if path.is_dir() and (why := foreign.why_not(path)):
        refuse(path, why)
    path = regular_file(path / "model.json" if (path / "model.json").is_file() else path)
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        refuse(path, f"cannot be read: {error.strerror}.")
    with _reader(path, start) as source:
        yield source


def described(source: Source, architecture: Path | None) -> Source:
    """The weights with an architecture that lies in a file of its own, as `model.to_json()` gives it."""
    if architecture is None:
        return source
    try:
        if regular_file(architecture).stat().st_size > MAX_JSON_BYTES:
            raise ValueError
        config = json.loads(architecture.read_bytes())
    except (ValueError, RecursionError, OSError):
        config = None
    if not isinstance(config, dict) or "class_name" not in config:
        refuse(architecture, "is no architecture of Keras. Expected what model.to_json() gives.")
    return dataclasses.replace(source, config=config)


def _reader(path: Path, start: bytes) -> contextlib.AbstractContextManager[Source]:
    # Each branch loads the library of its own format only.
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        from weights_convert.readers.hdf5 import open_hdf5

        return open_hdf5(path)
    if start.startswith(b"PK\x03\x04"):
        from weights_convert.readers.zipped import open_zip

        return open_zip(path)
    if start.startswith(b"\x93NUMPY"):
        from weights_convert.readers.numpy_file import open_npy

        return open_npy(path)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        from weights_convert.readers.safetensors_file import open_safetensors

        return open_safetensors(path)
    if start[:1] == b"\x80" and start[2:4] in (b"\x8a\x0a", b"\x95\x0e"):  # a pickle of torch.save's magic number
        from weights_convert.readers.torch_file import open_torch_legacy

        return open_torch_legacy(path)
    if why := foreign.why_not(path, start):
        refuse(path, why)
    if start.lstrip().startswith(b"{") and b'"' in start:
        from weights_convert.readers.tfjs import open_tfjs

        return open_tfjs(path)
    if _is_text(start):
        refuse(path, f"{_kind_of_text(start)}. Expected a weight file: {KNOWN}.")
    if path.suffix.lower() in (".h5", ".hdf5"):
        refuse(path, "is no HDF5 file, whatever its name says. Was the download cut short or replaced by a page?")
    from weights_convert.readers.onnx_graph import open_onnx

    return open_onnx(path)


def _is_text(start: bytes) -> bool:
    return not any(byte < 9 or 13 < byte < 32 for byte in start)


def _kind_of_text(start: bytes) -> str:
    head = start.lstrip()[:64].lower()
    if head.startswith(b"version https://git-lfs"):
        return "is a git-lfs pointer, not the file itself: run `git lfs pull`"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not a weight file: download it again"
    return "is a text file"
