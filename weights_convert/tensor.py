"""What every reader hands over: named tensors that are described at once and read one at a time.

A weight file comes from strangers. A reader follows no link out of the file, runs nothing in it, and compares
every declared size with the bytes that are there before it allocates. What is wrong is a `WeightFileError`.
"""

from __future__ import annotations

import dataclasses
import math
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from vgg_flax import files
from vgg_flax.errors import UserError

MAX_FILE_BYTES = 4 << 30  # VGG19 with its top and Adam's state is 1.7 GB
MAX_TENSOR_BYTES = 1 << 30  # the largest tensor of VGG, fc1's kernel, is 411 MB
MAX_TENSORS = 20_000
MAX_JSON_BYTES = 16 << 20
KERAS_3 = "Keras 3 .weights.h5"  # a format
# What to do with a model of which nothing can be used, and with one whose convolutions can.
TRAIN = "Next, on the same photos, from ImageNet's weights: vgg-flax train --data FOLDER"
ALONE = "Its convolutions alone come in with: vgg-flax convert import FILE DIR"


class WeightFileError(UserError):
    """A weight file that can't be used: which file, which tensor, what was found and what was expected."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One array in a file.

    Attributes:
      name: as the file spells it; control characters are already escaped.
      key: what the rules match, `layer/.../weight` in most dialects.
      shape, dtype: as stored; the dtype is text such as `float32`.
      load: reads it, in any real floating-point type and byte order.
    """

    name: str
    key: str
    shape: tuple[int, ...]
    dtype: str
    load: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        """Bytes as float32."""
        return math.prod(self.shape) * 4


@dataclasses.dataclass(frozen=True)
class Source:
    """An open weight file.

    Attributes:
      path: the file.
      format: its name for people.
      dialects: rows of `rules.py` that may fit.
      tensors: every array, in the file's own order.
      left_out: (name, reason) of arrays that belong to no model, such as an optimiser's state.
      config: the architecture in Keras's terms, or what else the file says of itself; plain data.
      optimiser: the matrices among an optimiser's state.
      ordered: the file keeps the order of the layers.
      by_place: layers have no names in it; they are numbered by class, in the order of the model.
    """

    path: Path
    format: str
    dialects: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    config: Any = None
    optimiser: tuple[Tensor, ...] = ()
    ordered: bool = False
    by_place: bool = False

    @property
    def whole(self) -> bool:
        """The file describes its layers, too, so that its head can be read."""
        return isinstance(self.config, dict) and "class_name" in self.config


def refuse(path: Path | str, why: str) -> NoReturn:
    """Raise the one error of all readers."""
    raise WeightFileError(f"{path}: {why}")


def printable(name: object) -> str:
    """Text from a file, safe to print: control characters escaped, at most 200 characters."""
    text = files.printable(name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name))
    return text if len(text) <= 200 else text[:197] + "..."


def natural(name: str) -> list[str]:
    """For sorting: conv2d, conv2d_2, conv2d_10, numbers by their size."""
    return [part.zfill(20) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def regular_file(path: Path) -> Path:
    """The path, if it is a regular file of a sane size. A pipe or device would block for ever."""
    try:
        status = path.stat()
    except OSError as error:
        refuse(path, f"cannot be opened: {error.strerror}. Expected a weight file.")
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        refuse(path, f"is {kind}. Expected a weight file.")
    if status.st_size == 0:
        refuse(path, "is empty (0 bytes). Expected a weight file.")
    if status.st_size > MAX_FILE_BYTES:
        refuse(path, f"has {status.st_size:,} bytes. Expected at most {MAX_FILE_BYTES:,}.")
    return path


def checked_shape(path: Path, name: str, shape: Any) -> tuple[int, ...]:
    """A declared shape as a tuple, refused when negative or larger than any tensor of VGG."""
    dims = tuple(int(n) for n in shape)
    if len(dims) > 8 or any(n < 0 for n in dims):
        refuse(path, f"tensor {name} declares the shape {dims}. Expected up to 8 sizes of 0 or more.")
    if math.prod(dims) * 4 > MAX_TENSOR_BYTES:
        refuse(path, f"tensor {name} declares the shape {dims}, larger than any tensor of VGG.")
    return dims


def unique(path: Path, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """The tensors, after checking that no name comes twice and that there are not absurdly many."""
    if len(tensors) > MAX_TENSORS:
        refuse(path, f"holds {len(tensors):,} tensors. Expected at most {MAX_TENSORS:,}.")
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.key in seen:
            refuse(path, f"tensor {tensor.name} is there twice. Expected every name once.")
        seen.add(tensor.key)
    return tuple(tensors)


def read_float32(path: Path, tensor: Tensor) -> np.ndarray:
    """The tensor as float32 in native byte order, exactly as stored for float32 and narrower types.

    Raises:
      WeightFileError: another dtype or shape than declared, or a value that is not finite.
    """
    if tensor.dtype not in ("float16", "bfloat16", "float32", "float64"):
        refuse(path, f"tensor {tensor.name} is {printable(tensor.dtype)}. Expected floating point.")
    array = tensor.load()
    if array.shape != tensor.shape:
        refuse(path, f"tensor {tensor.name} has shape {array.shape}, but {tensor.shape} was declared.")
    with np.errstate(over="ignore", invalid="ignore"):
        # A float64 beyond float32 becomes infinite here and is refused below. The sum is a check without a
        # temporary array: it is finite unless a value is not, or it overflowed, which the slow path tells.
        array = array.astype(np.float32, copy=False)
        suspicious = not np.isfinite(array.sum())
    if suspicious and not np.isfinite(array).all():
        bad = int(array.size - np.isfinite(array).sum())
        refuse(path, f"tensor {tensor.name} has {bad:,} NaN or infinite values. Expected finite numbers.")
    return array


def decode(path: Path, name: str, data: bytes | memoryview, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Little-endian bytes -> array."""
    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype).newbyteorder("<")
    needed = math.prod(shape) * kind.itemsize
    if len(data) != needed:
        refuse(path, f"tensor {name} has {len(data):,} bytes. Expected {needed:,} for {dtype} {shape}.")
    return np.frombuffer(data, kind).reshape(shape)
