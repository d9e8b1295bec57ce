"""One ONNX TensorProto: what it declares, and its bytes, inline or in a file beside the model."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, numpy_helper

from weights_convert.tensor import Tensor, checked_shape, decode, printable, refuse

Convert = Callable[[np.ndarray], np.ndarray]
DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}
MAX_SMALL = 4096
EXTERNAL_KEYS = {"location", "offset", "length", "checksum"}


@dataclasses.dataclass(frozen=True)
class Use:
    """What a constant becomes: its key, and its shape and array as Keras lays them out."""

    key: str
    shape: tuple[int, ...]
    convert: Convert


def describe(path: Path, name: str, proto: TensorProto, use: Use | None) -> Tensor:
    """One tensor, read on demand, in the layout that `use` asks for."""
    name = printable(name)
    shape, dtype = declared(path, name, proto)
    if use is None:
        return Tensor(name, f"other/{name}", shape, dtype, lambda: read(path, name, proto))

    def load() -> np.ndarray:
        try:
            return use.convert(read(path, name, proto))
        except ValueError as error:
            refuse(path, f"tensor {name} of shape {shape}: {error}.")

    return Tensor(name, use.key, use.shape, dtype, load)


def declared(path: Path, name: str, proto: TensorProto) -> tuple[tuple[int, ...], str]:
    """(shape, dtype), sizes checked."""
    dtype = DTYPES.get(proto.data_type, f"ONNX type {proto.data_type}")
    return checked_shape(path, name, proto.dims), dtype


def read(path: Path, name: str, proto: TensorProto) -> np.ndarray:
    """The array. Raises WeightFileError when the bytes don't match the declared shape and type."""
    shape, dtype = declared(path, name, proto)
    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        return decode(path, name, _external(path, name, proto), dtype, shape)
    if proto.float_data and not proto.raw_data and dtype == "float32":
        return decode(path, name, np.asarray(proto.float_data, "<f4").tobytes(), dtype, shape)
    return decode(path, name, proto.raw_data, dtype, shape)


def small(path: Path, name: str, proto: TensorProto) -> Any:
    """A constant of few numbers as nested lists. Raises WeightFileError for a large one, or a damaged one."""
    name = printable(name)
    if math.prod(checked_shape(path, name, proto.dims)) <= MAX_SMALL:
        if proto.data_type in DTYPES:
            return read(path, name, proto).astype(np.float64).tolist()
        plain = TensorProto()
        plain.CopyFrom(proto)
        bring_in(path, plain)  # or else the library opens the file
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return numpy_helper.to_array(plain).tolist()
    refuse(path, f"tensor {name} is applied to the picture. Expected at most {MAX_SMALL:,} plain numbers.")


def bring_in(path: Path, proto: TensorProto) -> None:
    """Put the bytes that lie in a file beside the model into the tensor, after the same checks as when it is read."""
    if proto.data_location == TensorProto.EXTERNAL or proto.external_data:
        proto.raw_data = _external(path, printable(proto.name), proto)
        proto.ClearField("external_data")
        proto.ClearField("data_location")


def _external(path: Path, name: str, proto: TensorProto) -> bytes:
    facts = {entry.key: entry.value for entry in proto.external_data}
    if set(facts) - EXTERNAL_KEYS or len(facts) != len(proto.external_data):
        refuse(path, f"tensor {name} has external data with the unknown or repeated key {printable(sorted(facts))}.")
    location = facts.get("location", "")
    if not isinstance(location, str) or not location or location in (".", "..") or set(location) & set("/\\:\0"):
        refuse(path, f"tensor {name} lies in {printable(location)!r}. Expected the name of a file beside the model.")
    offset, length = (_natural_number(path, name, key, facts.get(key)) for key in ("offset", "length"))
    # A model may be a link into a download cache, whose files lie side by side; its data may not be a link.
    data = path.resolve().parent / location
    try:
        with os.fdopen(
            os.open(data, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb"
        ) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                refuse(path, f"tensor {name} lies in {printable(location)!r}, which is a link or no regular file.")
            length = status.st_size - (offset or 0) if length is None else length
            if length < 0 or (offset or 0) + length > status.st_size or length > 1 << 30:
                refuse(path, f"tensor {name} claims bytes beyond the end of {printable(location)!r}.")
            file.seek(offset or 0)
            return file.read(length)
    except OSError as error:
        refuse(path, f"tensor {name} lies in {printable(location)!r}, which can't be opened ({error.strerror}).")


def _natural_number(path: Path, name: str, key: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        refuse(path, f"tensor {name} has the external {key} {printable(text)!r}. Expected a number of 0 or more.")
    return int(text)
