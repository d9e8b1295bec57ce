"""An imported folder: `weights.safetensors` and `weights.json`, our own names and layouts.

The JSON file holds the model, the statistics of its preprocessing, where the weights come from, and the
SHA-256 of the arrays' file, checked at every load. Tensors are written one at a time, to save memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vgg_flax.errors import UserError
from vgg_flax.files import sync_folder
from vgg_flax.network.params import Params, unflatten
from weights_convert.convert import Plan

FORMAT = 1
ARRAYS, RECORD = "weights.safetensors", "weights.json"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor to write: its name, shape, and the function that makes it as float32."""

    name: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def save(plan: Plan, folder: Path, source: str, *, overwrite: bool = False) -> None:
    """Import everything in `plan` into a folder, which appears whole or not at all.

    Raises:
      UserError: the folder exists, or can't be written.
    """
    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists. Give another folder, or --overwrite.")
    entries = [Entry(target, move.shape, move.read) for target, move in plan.moves.items()]
    try:
        with whole_folder(folder, {ARRAYS, RECORD}.issuperset) as new:
            sha256 = write_safetensors(new / ARRAYS, entries)
            record = {
                "format": FORMAT,
                "model": plan.model,
                "blocks": plan.blocks,
                "top": plan.has_top,
                "mean": plan.mean,
                "std": plan.std,
                "source": source,
                "dialect": plan.dialect,
                "sha256": sha256,
            }
            _write(new / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror or error}.") from None


@contextlib.contextmanager
def whole_folder(folder: Path, ours: Callable[[set[str]], bool]) -> Iterator[Path]:
    """An empty folder of the same name, which takes the place of `folder` if all went well, and goes away if not.

    Args:
      ours: whether a folder that holds files of these names, and nothing else, may be replaced.

    Raises:
      UserError: `folder` holds anything else, and is left as it is.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
        new = Path(temporary) / "new" / folder.name
        new.mkdir(parents=True)
        yield new
        if folder.exists():
            inside = list(folder.iterdir()) if folder.is_dir() else [folder]
            names = sorted(path.name for path in inside)
            if not (folder.is_dir() and all(path.is_file() for path in inside) and ours(set(names))):
                raise UserError(f"{folder} holds {', '.join(names[:3])} and is not replaced. Give another folder.")
            folder.rename(Path(temporary) / "old")
        new.rename(folder)
        sync_folder(folder.parent)


def load(folder: Path) -> tuple[dict[str, Any], Params]:
    """(record, {"backbone": ..., "top": ...}) of an imported folder.

    Raises:
      UserError: a file is missing, damaged, or was changed since the import.
    """
    import safetensors.numpy

    try:
        record = json.loads((folder / RECORD).read_bytes())
        if record["format"] != FORMAT:
            raise UserError(f"{folder / RECORD} has format {record['format']}, expected {FORMAT}: update vgg_flax.")
        with (folder / ARRAYS).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != record["sha256"]:
            raise UserError(f"{folder / ARRAYS} was changed or damaged since the import (SHA-256). Import it again.")
        flat = safetensors.numpy.load_file(folder / ARRAYS)
        [record[key] for key in ("model", "blocks", "mean", "std", "source")]
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder} holds no usable weights: {error!r}. Import them again.") from None
    return record, unflatten(flat)


def write_safetensors(path: Path, entries: list[Entry], metadata: dict[str, str] | None = None) -> str:
    """Write float32 tensors one at a time; the file appears whole or not at all. Returns its SHA-256."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for entry in entries:
        start, end = end, end + 4 * int(np.prod(entry.shape))
        header[entry.name] = {"dtype": "F32", "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    sha = hashlib.sha256()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            for piece in (struct.pack("<Q", len(text)), text):
                sha.update(piece)
                file.write(piece)
            for entry in entries:
                array = np.ascontiguousarray(entry.read(), "<f4")
                if array.shape != entry.shape:
                    raise ValueError(f"{entry.name} has shape {array.shape}, expected {entry.shape}.")
                sha.update(array.data)
                file.write(array.data)
                del array
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return sha.hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
