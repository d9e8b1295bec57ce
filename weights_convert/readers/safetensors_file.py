"""safetensors: eight bytes of length, a JSON header, and the tensors one after the other.

Source: the format's own README. Stricter than it in one way: a header of VGG has a few kilobytes, not 100 MB.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from weights_convert.readers.state_dict import keys
from weights_convert.tensor import Source, Tensor, checked_shape, decode, printable, refuse, unique

MAX_HEADER = 1 << 20
DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
SIZES = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Source]:
    """Open a safetensors file of ours, of torchvision or of timm."""
    with path.open("rb") as file:
        header, start = _header(path, file)
        metadata = header.pop("__metadata__", None)
        if metadata is not None and not isinstance(metadata, dict):
            refuse(path, "has metadata that is no dict.")
        _check(path, header, path.stat().st_size - start)
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        ours = any(name.startswith("backbone/") for name in header)
        by_name = {name: name for name in header} if ours else keys(shapes)
        tensors = [
            Tensor(
                printable(name),
                by_name[name],
                shapes[name],
                DTYPES.get(entry["dtype"]) or str(entry["dtype"]),
                _load(path, file, name, start, entry),
            )
            for name, entry in header.items()
            if name in by_name
        ]
        counters = tuple((printable(name), "a counter, no weight") for name in header if name not in by_name)
        dialects = ("vgg_flax",) if ours else ("torchvision", "timm")
        yield Source(path, "safetensors", dialects, unique(path, tensors), counters, metadata)


def _header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER:
        refuse(path, f"declares a header of {length:,} bytes. Expected at most {MAX_HEADER:,}.")
    text = file.read(length)
    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=lambda pairs: _no_twins(path, pairs))
    except (ValueError, RecursionError):
        header = None
    if len(text) != length or not text.startswith(b"{") or not isinstance(header, dict):
        refuse(path, "has a damaged safetensors header, or is cut short.")
    return header, 8 + length


def _no_twins(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        refuse(path, "names a tensor twice. Expected every name once.")
    return found


def _check(path: Path, header: dict[str, Any], size: int) -> None:
    """Every tensor as long as its shape says, all of them side by side up to the end of the file."""
    places = []
    for name, entry in header.items():
        if not isinstance(entry, dict) or entry.get("dtype") not in SIZES or not isinstance(entry.get("shape"), list):
            refuse(path, f"tensor {printable(name)} has a damaged entry in the header.")
        offsets = entry.get("data_offsets")
        numbers = [*entry["shape"], *(offsets if isinstance(offsets, list) else [])]
        if len(numbers) != len(entry["shape"]) + 2:
            refuse(path, f"tensor {printable(name)} has a damaged shape or offsets.")
        if not all(type(n) is int and n >= 0 for n in numbers):
            refuse(path, f"tensor {printable(name)} has a damaged shape or offsets.")
        shape = checked_shape(path, printable(name), entry["shape"])
        first, last = numbers[-2:]
        if math.prod(shape) * SIZES[entry["dtype"]] != last - first:
            refuse(path, f"tensor {printable(name)} has {last - first:,} bytes for the shape {shape}.")
        places.append((first, last))
    end = 0
    for first, last in sorted(places):
        if first != end:
            refuse(path, f"has tensors that overlap, or a hole, at byte {end:,}.")
        end = last
    if end != size:
        refuse(path, f"has {size:,} bytes of tensors where its header declares {end:,}. Is it cut short?")


def _load(path: Path, file: BinaryIO, name: str, start: int, entry: dict[str, Any]) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        first, last = entry["data_offsets"]
        file.seek(start + first)
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        return decode(path, printable(name), file.read(last - first), dtype, shape)

    return load
