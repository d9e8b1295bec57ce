"""Texts beside HDF5's data: only what the library reads without a crash, and to an end.

Text of variable length lies in global heaps, chains of objects. The library takes every object's word for where the
next one starts, and one that claims no space at all keeps it there for ever (HDF5 2.0 and all before). So the chains
are walked here first. Source: HDF5 File Format Specification, III.E.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import h5py

from weights_convert.tensor import refuse

START = b"GCOL\x01"
h5a, h5t = h5py.h5a, h5py.h5t  # pyright: ignore[reportAttributeAccessIssue]
HEADER, SMALLEST = 16, 4096  # bytes of a heap's header, and of an object's; of the smallest heap


def is_text(attribute: Any) -> bool:
    """An attribute is text. The library crashes over some damaged types, so that nothing else is read."""
    return isinstance(attribute.get_type(), h5t.TypeStringID)


def needed(thing: Any) -> bool:
    """A group or data set has an attribute with text of variable length."""
    attributes = (h5a.open(thing.id, index=i) for i in range(h5a.get_num_attrs(thing.id)))
    return any(is_text(attribute) and attribute.get_type().is_variable_str() for attribute in attributes)


def check(path: Path, file: h5py.File, data: bytes | None) -> None:
    """Refuse a file with a heap in which the library would not come to an end.

    Args:
      data: the file's bytes, where it is not `path` itself.
    """
    if file.id.get_create_plist().get_sizes() != (8, 8):
        refuse(path, "has HDF5 addresses of other than 8 bytes, which Keras never writes.")
    if data is not None:
        _check(path, data)
        return
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        _check(path, mapped)


def _check(path: Path, data: bytes | mmap.mmap) -> None:
    at = data.find(START)
    while at >= 0:
        end = at + _number(data, at + 8, 8)
        if at + SMALLEST <= end <= len(data):  # else it is no heap, and the library says so itself
            _walk(path, data, at + HEADER, end)
        at = data.find(START, at + 1)


def _walk(path: Path, data: bytes | mmap.mmap, at: int, end: int) -> None:
    while at + HEADER <= end:
        index, size = _number(data, at, 2), _number(data, at + 8, 8)
        step = HEADER + (size + 7) // 8 * 8 if index else size  # the size of free space, object 0, counts its header
        if step == 0 or step > end - at:
            refuse(path, "has a damaged heap of texts (HDF5). Download or copy the file again.")
        at += step


def _number(data: bytes | mmap.mmap, at: int, count: int) -> int:
    return int.from_bytes(data[at : at + count], "little")
