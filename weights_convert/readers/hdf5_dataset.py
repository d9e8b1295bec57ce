"""One HDF5 data set: what it declares, whether that is honest, and its bytes.

The HDF5 library fills in zeros for chunks that were never written, runs filters without a bound on their
output, and opens other files for external and virtual storage. So storage is checked first, and chunks are
unpacked here.
"""

from __future__ import annotations

import itertools
import math
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from weights_convert.tensor import checked_shape, printable, refuse

GZIP, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE
MAX_CHUNKS = 100_000


def check_storage(path: Path, dataset: h5py.Dataset) -> None:
    """Refuse data that lies outside the file, before anything of it is read."""
    plist = dataset.id.get_create_plist()
    where = printable(dataset.name)
    if plist.get_external_count() > 0:
        refuse(path, f"{where} keeps its data in another file (external storage), which is not opened.")
    if plist.get_layout() == h5py.h5d.VIRTUAL:
        refuse(path, f"{where} is a virtual data set over other files, which is not followed.")


def declared(path: Path, name: str, dataset: h5py.Dataset) -> tuple[tuple[int, ...], str]:
    """(shape, dtype) as declared, sizes checked."""
    if dataset.shape is None:
        refuse(path, f"tensor {name} is an empty data space. Expected an array.")
    kind = dataset.dtype
    return checked_shape(path, name, dataset.shape), kind.newbyteorder("=").name if kind.kind == "f" else str(kind)


def read(path: Path, name: str, dataset: h5py.Dataset) -> np.ndarray:
    """The whole data set. Its dtype is a real floating-point type, which the caller has checked."""
    try:
        if dataset.chunks is not None:
            return _read_chunks(path, name, dataset)
        stored = dataset.id.get_storage_size()
        if stored != dataset.nbytes:
            refuse(path, f"tensor {name} stores {stored:,} of {dataset.nbytes:,} bytes: never written, or cut.")
        array = np.empty(dataset.shape, dataset.dtype)
        if array.size:
            dataset.read_direct(array)
        return array
    except (OSError, RuntimeError, ValueError, zlib.error) as error:
        refuse(path, f"tensor {name} can't be read ({printable(error)[:100]}). Is the file damaged or cut short?")


def _read_chunks(path: Path, name: str, dataset: Any) -> np.ndarray:
    filters = _filters(path, name, dataset)
    chunk, shape = dataset.chunks, dataset.shape
    chunk_bytes = math.prod(chunk) * dataset.dtype.itemsize
    expected = math.prod(-(-size // step) for size, step in zip(shape, chunk, strict=True))
    found = dataset.id.get_num_chunks()
    if found != expected or found > MAX_CHUNKS:
        refuse(path, f"tensor {name} has {found:,} of {expected:,} chunks: never written, or cut.")
    if chunk_bytes > 2 * dataset.nbytes + (1 << 20):
        refuse(path, f"tensor {name} has chunks of {chunk_bytes:,} bytes for {dataset.nbytes:,} bytes of data.")
    array = np.empty(shape, dataset.dtype)
    chunks = [dataset.id.get_chunk_info(i) for i in range(found)]
    places = {info.chunk_offset for info in chunks}
    grid = itertools.product(*(range(0, size, step) for size, step in zip(shape, chunk, strict=True)))
    if places != set(grid):  # an undefined address, or one place twice and another never
        refuse(path, f"tensor {name} has chunks that don't cover it. Is the file damaged or cut short?")
    for info in chunks:
        if info.size > chunk_bytes + chunk_bytes // 100 + 1024:
            refuse(path, f"tensor {name} has a packed chunk of {info.size:,} bytes for {chunk_bytes:,}.")
        mask, packed = dataset.id.read_direct_chunk(info.chunk_offset)
        data = _unpack(path, name, packed, filters, mask, chunk_bytes, dataset.dtype.itemsize)
        block = np.frombuffer(data, dataset.dtype).reshape(chunk)
        into = tuple(slice(start, start + step) for start, step in zip(info.chunk_offset, chunk, strict=True))
        view = array[into]
        view[...] = block[tuple(slice(0, size) for size in view.shape)]
    return array


def _filters(path: Path, name: str, dataset: h5py.Dataset) -> list[int]:
    plist = dataset.id.get_create_plist()
    codes = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if set(codes) - {GZIP, SHUFFLE} or len(codes) > 2:
        refuse(path, f"tensor {name} is packed by HDF5 filter {codes}. Expected none, gzip, or shuffle and gzip.")
    return codes


def _unpack(
    path: Path, name: str, data: bytes, filters: list[int], mask: int, chunk_bytes: int, itemsize: int
) -> bytes:
    """Undo the filters, last first; bit i of `mask` says that filter i was left out for this chunk."""
    for i, code in reversed(list(enumerate(filters))):
        if mask >> i & 1:
            continue
        if code == GZIP:
            data = zlib.decompressobj().decompress(data, chunk_bytes + 1)
        elif code == SHUFFLE:
            data = np.frombuffer(data, np.uint8).reshape(itemsize, -1).T.tobytes()
    if len(data) != chunk_bytes:
        refuse(path, f"tensor {name} has a chunk that unpacks to {len(data):,} of {chunk_bytes:,} bytes.")
    return data
