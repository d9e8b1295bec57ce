"""safetensors, by the library that defines it, which checks that tensors fill the file without overlap.

Stricter than it in two ways: a header of VGG has a few kilobytes, not 100 MB, and no name comes twice.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator
from pathlib import Path

import safetensors

from weights_convert.readers.torch_file import dialects, key
from weights_convert.tensor import Source, Tensor, checked_shape, printable, refuse, unique

MAX_HEADER = 1 << 20
DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Source]:
    """Open a safetensors file of ours, of torchvision or of timm."""
    with path.open("rb") as start:
        length = int.from_bytes(start.read(8), "little")
        if length > MAX_HEADER:
            refuse(path, f"declares a header of {length:,} bytes. Expected at most {MAX_HEADER:,}.")
        header = start.read(length)
    try:
        opened = safetensors.safe_open(path, "np")
    except (safetensors.SafetensorError, OSError) as error:
        refuse(path, f"is a damaged safetensors file, or is cut short ({printable(error)[:100]}).")
    with opened as file:
        names = json.loads(header, object_pairs_hook=lambda pairs: [name for name, _ in pairs])
        if len(set(names)) != len(names):  # of which the library takes the last
            refuse(path, "names a tensor twice. Expected every name once.")
        entries = {name: file.get_slice(name) for name in names if name != "__metadata__"}
        shapes = {name: checked_shape(path, printable(name), entry.get_shape()) for name, entry in entries.items()}
        ours = any(name.startswith("backbone/") for name in entries)
        tensors, counters = [], []
        for name, entry in entries.items():
            if name.endswith(".num_batches_tracked"):
                counters.append((printable(name), "a counter, no weight"))
                continue
            dtype, load = str(entry.get_dtype()), functools.partial(file.get_tensor, name)
            tensors.append(
                Tensor(printable(name), name if ours else key(name), shapes[name], DTYPES.get(dtype) or dtype, load)
            )
        named = ("vgg_flax",) if ours else dialects(entries)
        yield Source(path, "safetensors", named, unique(path, tensors), tuple(counters), file.metadata())
