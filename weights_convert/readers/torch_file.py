"""PyTorch's `.pth` and `.pt`: a zip archive since version 1.6, before that pickles followed by raw storages.

Read without torch. A whole pickled model is refused, as it names its classes; of a traced or scripted one the state is
read, and its code is not. Source: torch/serialization.py, torch/csrc/jit/serialization/pickler.cpp.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.readers import foreign
from weights_convert.readers.archive import Archive
from weights_convert.readers.pickled import RESAVE, Machine
from weights_convert.readers.pickled_values import Scripted, Storage, TorchTensor, text
from weights_convert.tensor import Source, Tensor, decode, printable, refuse, unique

MAGIC = 0x1950A86A20F9469CFC6C
SIZES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "LongStorage": 8, "IntStorage": 4}
SIZES |= {"ShortStorage": 2, "CharStorage": 1, "ByteStorage": 1, "BoolStorage": 1}
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")
MAX_PICKLE, MAX_NAME = 16 << 20, 1000

Fetch = Callable[[Storage, int, int], bytes]  # (storage, first value, number of values) -> bytes


@contextlib.contextmanager
def open_torch_zip(path: Path, archive: Archive) -> Iterator[Source]:
    """Open the archive that `torch.save` writes."""
    pickles = [name for name in archive.names if name.endswith("/data.pkl")]
    folder = pickles[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in archive.names and archive.read(f"{folder}byteorder", 16) != b"little":
        refuse(path, "was saved on a big-endian machine, which is not read.")
    thing = Machine(path, memoryview(archive.read(pickles[0], MAX_PICKLE))).run()

    def fetch(storage: Storage, start: int, count: int) -> bytes:
        member, size = f"{folder}data/{storage.key}", SIZES[storage.dtype]
        if member not in archive.names or archive.names[member].file_size != storage.size * size:
            refuse(path, f"storage {printable(storage.key)} lacks the {storage.size * size:,} bytes that it claims.")
        if archive.names[member].compress_type != zipfile.ZIP_STORED:
            refuse(path, f"storage {printable(storage.key)} is compressed; torch.save never does that.")
        return archive.slice(member, start * size, count * size)

    yield describe(path, thing, fetch)


@contextlib.contextmanager
def open_torch_legacy(path: Path) -> Iterator[Source]:
    """Open a file of PyTorch before 1.6, such as torchvision's own downloads."""
    with path.open("rb") as file:
        yield _legacy(path, memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def _legacy(path: Path, data: memoryview) -> Source:
    position, parts = 0, []
    for _ in range(5):  # magic number, protocol, facts about the machine, the object, the order of the storages
        machine = Machine(path, data, position)
        parts.append(machine.run())
        position = machine.end
    magic, protocol, facts, thing, order = parts
    if magic != MAGIC or protocol != 1001 or not isinstance(facts, dict) or not isinstance(order, list):
        refuse(path, f"is a pickle, but not one of torch.save. {RESAVE}")
    if facts.get("little_endian") is not True:
        refuse(path, "was saved on a big-endian machine, which is not read.")
    storages = {tensor.storage.key: tensor.storage for tensor in _tensors(path, thing).values()}
    places: dict[str, int] = {}
    for key in map(text, order):
        if key not in storages or position + 8 > len(data):
            refuse(path, "is cut short, or its list of storages does not fit its tensors.")
        (size,) = struct.unpack("<q", data[position : position + 8])
        if size != storages[key].size or position + 8 + size * SIZES[storages[key].dtype] > len(data):
            refuse(path, f"is cut short: storage {printable(key)} claims {size:,} values.")
        places[key] = position + 8
        position += 8 + size * SIZES[storages[key].dtype]

    def fetch(storage: Storage, start: int, count: int) -> bytes:
        size = SIZES[storage.dtype]
        first = places[storage.key] + start * size
        return bytes(data[first : first + count * size])

    if missing := storages.keys() - places.keys():
        refuse(path, f"is cut short: storage {printable(min(missing))} is not there.")
    return describe(path, thing, fetch)


def _tensors(path: Path, thing: Any) -> dict[str, TorchTensor]:
    """{name: tensor} of a state_dict, out of what people wrap around it."""
    for _ in range(4):
        inner = next(
            (thing[key] for key in WRAPPERS if isinstance(thing, dict) and isinstance(thing.get(key), dict)), None
        )
        if inner is None:
            break
        thing = inner
    found, stack, seen = {}, [("", thing)], set()
    while stack:
        prefix, node = stack.pop()
        if isinstance(node, TorchTensor):
            found[prefix] = node
        elif isinstance(node, Scripted if prefix else dict) and id(node) not in seen and len(prefix) < MAX_NAME:
            seen.add(id(node))
            stack += [(f"{prefix}.{name}" if prefix else str(name), one) for name, one in node.items()][::-1]
    if not found:
        step = foreign.filled(foreign.FROZEN, path) if isinstance(thing, Scripted) else f". {RESAVE}"
        refuse(path, f"holds no state_dict{step}")
    return found


def describe(path: Path, thing: Any, fetch: Fetch) -> Source:
    """The tensors of an unpickled state_dict."""
    found = _tensors(path, thing)
    tensors, counters = [], []
    for name, tensor in found.items():
        if tensor.storage.dtype not in SIZES:
            refuse(path, f"tensor {printable(name)} is of the unknown type {printable(tensor.storage.dtype)}.")
        if name.endswith(".num_batches_tracked"):
            counters.append((printable(name), "a counter, no weight"))
            continue
        load = functools.partial(_read, path, printable(name), tensor, fetch)
        tensors.append(Tensor(printable(name), key(name), tensor.shape, tensor.storage.dtype, load))
    kind = "TorchScript" if isinstance(thing, Scripted) else "PyTorch state_dict"
    return Source(path, kind, dialects(found), unique(path, tensors), tuple(counters), ordered=True)


def dialects(names: Iterable[str]) -> tuple[str]:
    """torchvision's or timm's, by its names for VGG's layers on top."""
    return ("timm" if any("pre_logits." in name for name in names) else "torchvision",)


def key(name: str) -> str:
    """`features.0.weight` -> `features.0/weight`."""
    return "/".join(name.rpartition(".")[::2])


def _read(path: Path, name: str, tensor: TorchTensor, fetch: Fetch) -> np.ndarray:
    storage, shape = tensor.storage, tensor.shape
    steps = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    if all(n == 1 or a == b for n, a, b in zip(shape, tensor.strides, steps, strict=True)):
        return decode(path, name, fetch(storage, tensor.offset, math.prod(shape)), storage.dtype, shape)
    whole = decode(path, name, fetch(storage, 0, storage.size), storage.dtype, (storage.size,))
    strides = [n * whole.itemsize for n in tensor.strides]
    return np.lib.stride_tricks.as_strided(whole[tensor.offset :], shape, strides, writeable=False)
