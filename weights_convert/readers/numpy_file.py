"""NumPy's `.npz` (name -> array) and `.npy`; the latter also as the pickled dict of machrisaa's tensorflow-vgg.

Source: numpy.lib.format. A pickled dict is read by `pickled.Machine`, never by NumPy.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import mmap
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy

from weights_convert.readers.archive import Archive
from weights_convert.readers.pickled import Machine
from weights_convert.readers.pickled_values import NumpyArray, array_dtype, read_array
from weights_convert.tensor import MAX_TENSOR_BYTES, Source, Tensor, checked_shape, printable, refuse, unique

MAX_HEADER = 10_000


@contextlib.contextmanager
def open_npz(path: Path, archive: Archive) -> Iterator[Source]:
    """Open an archive of arrays."""
    tensors = []
    for member, entry in archive.names.items():
        name = printable(member.removesuffix(".npy"))
        head = archive.slice(member, 0, min(entry.file_size, MAX_HEADER + 16))
        shape, dtype, fortran, start = header(path, name, io.BytesIO(head))
        if entry.file_size != start + math.prod(shape) * dtype.itemsize:
            refuse(path, f"tensor {name} has {entry.file_size - start:,} bytes for the shape {shape}.")
        load = functools.partial(_read_member, archive, member, shape, dtype, fortran, start)
        key = re.sub("_([Wb])$", r"/\1", member.removesuffix(".npy").split(":")[0])  # conv1_1_W
        tensors.append(Tensor(name, key, shape, dtype.name, load))
    yield Source(path, "NumPy .npz", ("keras", "keras-numbered", "frossard"), unique(path, tensors))


def _read_member(
    archive: Archive, member: str, shape: tuple[int, ...], dtype: np.dtype, fortran: bool, start: int
) -> np.ndarray:
    data = archive.slice(member, start, math.prod(shape) * dtype.itemsize)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")


def header(path: Path, name: str, file: BinaryIO) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """(shape, dtype, Fortran order, where the data starts) of an .npy, sizes checked."""
    try:
        version = npy.read_magic(file)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            refuse(path, f"tensor {name} is .npy of version {version}. Expected 1.0 or 2.0.")
        shape, fortran, dtype = read(file, max_header_size=MAX_HEADER)
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError, EOFError):
        refuse(path, f"tensor {name} has a damaged .npy header.")
    if not all(type(n) is int for n in shape):
        refuse(path, f"tensor {name} declares the shape {printable(shape)}. Expected whole numbers.")
    if dtype.hasobject and name != path.name:
        refuse(path, f"tensor {name} holds Python objects. Expected numbers.")
    checked_shape(path, name, shape)
    if math.prod(shape) * dtype.itemsize > MAX_TENSOR_BYTES:
        refuse(path, f"tensor {name} declares {math.prod(shape) * dtype.itemsize:,} bytes, larger than any of VGG.")
    return shape, dtype, fortran, file.tell()


@contextlib.contextmanager
def open_npy(path: Path) -> Iterator[Source]:
    """Open a pickled dict {"conv1_1": [kernel, bias], ...}, as machrisaa distributes vgg16.npy and vgg19.npy."""
    with path.open("rb") as file:
        _, dtype, _, start = header(path, path.name, file)
        if not dtype.hasobject:
            refuse(path, "is a single array. Expected the dict of all layers of machrisaa's vgg16.npy or vgg19.npy.")
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        yield _pickled_dict(path, Machine(path, data, start).run())


def _pickled_dict(path: Path, thing: Any) -> Source:
    if isinstance(thing, NumpyArray) and isinstance(thing.data, list) and thing.data:
        thing = thing.data[0]  # np.save wraps the dict in an array without axes
    if not isinstance(thing, dict):
        refuse(path, "holds no dict. Expected {'conv1_1': [kernel, bias], ...}.")
    tensors = []
    for layer, parts in thing.items():
        for i, array in enumerate(parts if isinstance(parts, (list, tuple)) else ()):
            if not isinstance(array, NumpyArray) or array.dtype is None:
                refuse(path, f"{printable(layer)} holds something that is no array.")
            name = printable(f"{layer}[{i}]")
            load = functools.partial(read_array, path, name, array)
            tensors.append(Tensor(name, f"{layer}/{i}", array.shape, array_dtype(array), load))
    return Source(path, "NumPy .npy with a pickled dict", ("machrisaa",), unique(path, tensors))
