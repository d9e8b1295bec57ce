"""What a pickle of weights is made of: names that are never looked up, and arrays that still lie in the file."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.tensor import printable, refuse


@dataclasses.dataclass(frozen=True)
class Name:
    """A global that a pickle names. Never looked up."""

    text: str


@dataclasses.dataclass
class NumpyType:
    """numpy.dtype(code), and its byte order once that is known."""

    code: str
    order: str = "<"


@dataclasses.dataclass
class NumpyArray:
    """A NumPy array whose bytes still lie in the pickle."""

    shape: tuple[int, ...] = ()
    dtype: NumpyType | None = None
    fortran: bool = False
    data: memoryview | bytes | list[Any] = b""


@dataclasses.dataclass(frozen=True)
class Storage:
    """torch's flat memory: its dtype, the key of its bytes, and its number of values."""

    dtype: str
    key: str
    size: int


@dataclasses.dataclass(frozen=True)
class TorchTensor:
    """A view of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Scripted(dict[str, Any]):
    """A module of TorchScript: its attributes by name. Its class is code of the file and never looked up."""


def text(value: Any) -> str:
    """A string of Python 2, which may be bytes, or of Python 3."""
    if isinstance(value, (bytes, memoryview)) and len(value) < 1000:
        return bytes(value).decode("latin1")
    if not isinstance(value, str):
        raise TypeError
    return value


def read_array(path: Path, name: str, array: NumpyArray) -> np.ndarray:
    """A pickled NumPy array. Raises WeightFileError when its bytes don't fill its shape."""
    if array.dtype is None or isinstance(array.data, list):
        refuse(path, f"tensor {name} holds Python objects. Expected numbers.")
    dtype = np.dtype(array.dtype.code).newbyteorder(">" if array.dtype.order == ">" else "<")
    if len(array.data) != math.prod(array.shape) * dtype.itemsize:
        refuse(path, f"tensor {name} has {len(array.data):,} bytes for the shape {array.shape}.")
    return np.frombuffer(array.data, dtype).reshape(array.shape, order="F" if array.fortran else "C")


def array_dtype(array: NumpyArray) -> str:
    """The dtype's name, or its code when it is no floating-point type."""
    codes = {"f2": "float16", "f4": "float32", "f8": "float64"}
    return codes.get(array.dtype.code, printable(array.dtype.code)) if array.dtype else "nothing"
