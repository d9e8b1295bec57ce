"""tensorflow.js layers models: model.json and the binary shards beside it.

Source: the converter's `weightsManifest`: groups of shards that, put end to end, hold the group's tensors in order.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.tensor import MAX_JSON_BYTES, Source, Tensor, checked_shape, decode, printable, refuse, unique

MAX_SHARDS = 2000


@contextlib.contextmanager
def open_tfjs(path: Path) -> Iterator[Source]:
    """Open a model.json. Quantised weights are refused."""
    if path.stat().st_size > MAX_JSON_BYTES:
        refuse(path, f"has {path.stat().st_size:,} bytes of JSON. Expected at most {MAX_JSON_BYTES:,}.")
    try:
        model = json.loads(path.read_bytes())
        groups = [(list(group["paths"]), list(group["weights"])) for group in model["weightsManifest"]]
        topology = model.get("modelTopology") or {}
        config = topology.get("model_config", topology)
        tensors = [tensor for paths, weights in groups for tensor in _group(path, paths, weights)]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        refuse(path, "is JSON, but not the model.json of a tensorflow.js layers model.")
    yield Source(path, "Keras for tensorflow.js", ("keras", "keras-numbered"), unique(path, tensors), (), config)


def _group(path: Path, shards: list[Any], weights: list[Any]) -> list[Tensor]:
    files = [(_shard(path, name), _size(path, name)) for name in shards[:MAX_SHARDS]]
    tensors, start = [], 0
    for entry in weights:
        name, key = printable(entry["name"]), str(entry["name"])
        if entry["dtype"] != "float32" or "quantization" in entry:
            refuse(path, f"tensor {name} is quantised or {printable(entry['dtype'])}. Expected plain float32.")
        if not all(type(n) is int for n in entry["shape"]):
            raise TypeError
        shape = checked_shape(path, name, entry["shape"])
        size = 4 * math.prod(shape)
        load = functools.partial(_read, path, name, files, start, size, shape)
        tensors.append(Tensor(name, key, shape, "float32", load))
        start += size
    if start != sum(size for _, size in files):
        refuse(
            path,
            f"its shards have {sum(size for _, size in files):,} bytes, its tensors {start:,}. Is a shard cut short?",
        )
    return tensors


def _shard(path: Path, name: Any) -> Path:
    if not isinstance(name, str) or name in ("", ".", "..") or set(name) & set("/\\:\0"):
        refuse(path, f"names the shard {printable(name)!r}. Expected the name of a file beside it.")
    return path.parent / name


def _size(path: Path, name: str) -> int:
    try:
        status = (path.parent / name).lstat()
    except OSError as error:
        refuse(path, f"its shard {printable(name)} can't be opened ({error.strerror}). Bring the whole folder.")
    if not stat.S_ISREG(status.st_mode):
        refuse(path, f"its shard {printable(name)} is a link or no regular file.")
    return status.st_size


def _read(
    path: Path, name: str, files: list[tuple[Path, int]], start: int, size: int, shape: tuple[int, ...]
) -> np.ndarray:
    parts, position = [], 0
    for file, length in files:
        first, last = max(start - position, 0), min(start + size - position, length)
        if first < last:
            with os.fdopen(os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as opened:
                opened.seek(first)
                parts.append(opened.read(last - first))
        position += length
    return decode(path, name, b"".join(parts), "float32", shape)
