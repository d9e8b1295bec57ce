"""Keras's HDF5 files: legacy weights and whole models, and Keras 3's `.weights.h5`.

Source: the attributes `layer_names` and `weight_names` of Keras's legacy H5 format (Keras 1 to 3), and the
groups `layers/<class>/vars/<index>` of Keras 3, whose attribute `name` holds the layer's own name.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from weights_convert.readers import hdf5_dataset, hdf5_text
from weights_convert.tensor import (
    KERAS_3,
    MAX_JSON_BYTES,
    MAX_TENSORS,
    Source,
    Tensor,
    natural,
    printable,
    refuse,
    unique,
)

MAX_ATTRIBUTE_ITEMS = 10_000
MAX_DEPTH = 24
OPTIMISER = "optimiser state"
LISTS = {"layers", "_layer_checkpoint_dependencies"}  # where a model keeps its layers, now and in Keras 2.12


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Source]:
    """Open a Keras HDF5 file.

    Raises:
      WeightFileError: damaged, links, external or virtual data anywhere in it, or not written by Keras.
    """
    try:
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        refuse(path, f"is a damaged or truncated HDF5 file ({_first_clause(error)}). Download or copy it again.")
    with file:
        yield describe(path, file)


def describe(path: Path, file: Any, data: bytes | None = None) -> Source:
    """The tensors of an open HDF5 file that Keras wrote.

    Args:
      data: the file's bytes, where it is not `path` itself.
    """
    try:
        datasets = _walk(path, file, data)
        weights = "model_weights/" if "model_weights" in file else ""
        if "layer_names" in file[weights or "/"].attrs or "layer_names0" in file[weights or "/"].attrs:
            return _legacy(path, file, weights, datasets)
        if any(re.search(r"(^|/)vars/\d+$", name) for name in datasets):
            return _keras3(path, file, datasets)
        if "nb_layers" in file.attrs:
            refuse(path, "was written by Keras 0 with channels_first kernels, which are not read.")
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeError) as error:
        refuse(path, f"is a damaged HDF5 file ({_first_clause(error)}).")
    found = ", ".join(printable(name) for name in list(file)[:5]) or "nothing"
    expected = "the attribute layer_names, or groups layers/*/vars"
    refuse(path, f"was not written by Keras: expected {expected}; found {found}.")


def _walk(path: Path, file: Any, data: bytes | None) -> dict[str, h5py.Dataset]:
    """{path in the file: data set}, each object once, nothing but hard links followed."""
    datasets: dict[str, h5py.Dataset] = {}
    h5o: Any = h5py.h5o  # pyright: ignore[reportAttributeAccessIssue]
    seen = {h5o.get_info(file.id).addr}
    stack: list[tuple[str, Any]] = [("", file)]
    heaps = hdf5_text.needed(file)
    while stack:
        prefix, group = stack.pop()
        for name in group:
            full = f"{prefix}{name}"
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                what = f"{printable(full)} is a link ({type(link).__name__})"
                refuse(path, f"{what}, which is not followed. Expected plain data.")
            thing = group[name]
            address = h5o.get_info(thing.id).addr
            if address in seen:
                refuse(path, f"{printable(full)} is a second link to the same object. Expected a plain tree.")
            seen.add(address)
            heaps = heaps or hdf5_text.needed(thing)
            if len(seen) > MAX_TENSORS or full.count("/") > MAX_DEPTH:
                refuse(path, f"holds more than {MAX_TENSORS:,} objects, or groups nested {MAX_DEPTH} deep.")
            if isinstance(thing, h5py.Group):
                stack.append((f"{full}/", thing))
            elif isinstance(thing, h5py.Dataset):
                hdf5_dataset.check_storage(path, thing)
                datasets[full] = thing
    if heaps:
        hdf5_text.check(path, file, data)
    return datasets


def _legacy(path: Path, file: Any, prefix: str, datasets: dict[str, h5py.Dataset]) -> Source:
    group = file[prefix or "/"]
    tensors, listed = [], set()
    for layer in _names(path, group, "layer_names"):
        if layer not in group:
            refuse(path, f"layer {printable(layer)} is listed in layer_names but has no group.")
        for weight in _names(path, group[layer], "weight_names"):
            full = f"{prefix}{layer}/{weight}"
            if full not in datasets:
                refuse(path, f"{printable(full)} is listed in weight_names but is not there.")
            listed.add(full)
            tensors.append(_tensor(path, full, _legacy_key(layer, weight), datasets[full]))
    spare = sorted(datasets.keys() - listed)
    reasons = [OPTIMISER if _is_state(name) else "not listed in weight_names" for name in spare]
    return Source(
        path,
        f"Keras {_version(group, file)} HDF5, {'whole model' if prefix else 'weights'}",
        ("keras", "keras-numbered", "vggface"),
        unique(path, tensors),
        tuple(zip(map(printable, spare), reasons, strict=True)),
        _json(path, file, "model_config"),
        _state(path, datasets),
        ordered=True,
    )


def _legacy_key(layer: str, weight: str) -> str:
    """`block1_conv1` + `block1_conv1_W_1:0` -> `block1_conv1/W`; nested models keep their inner names."""
    weight = re.sub(r":\d+$", "", weight)
    keras1 = re.fullmatch(rf"{re.escape(layer)}_(W|b|gamma|beta|running_mean|running_std)(_\d+)?", weight)
    return f"{layer}/{keras1[1] if keras1 else weight}"


def _keras3(path: Path, file: Any, datasets: dict[str, h5py.Dataset]) -> Source:
    names = sorted(datasets, key=natural)
    tensors = [_tensor(path, name, _keras3_key(file, name), datasets[name]) for name in names if not _is_state(name)]
    spare = tuple((printable(name), OPTIMISER) for name in names if _is_state(name))
    dialects = ("keras", "keras-numbered")
    named = any("name" in file[name.rpartition("/")[0]].attrs for name in names)
    state = _state(path, datasets)
    return Source(path, KERAS_3, dialects, unique(path, tensors), spare, None, state, by_place=not named)


def _is_state(full: str) -> bool:
    return re.match(r"(optimizer_weights|_?optimizer)/", full) is not None


def _state(path: Path, datasets: dict[str, h5py.Dataset]) -> tuple[Tensor, ...]:
    matrices = (name for name, dataset in datasets.items() if _is_state(name) and len(dataset.shape or ()) == 2)
    return tuple(_tensor(path, name, name, datasets[name]) for name in matrices)


def _keras3_key(file: Any, full: str) -> str:
    """`layers/functional/layers/conv2d/vars/0` -> `vgg16/block1_conv1/0`, by the attribute `name`."""
    *parents, _, index = full.split("/")
    names = []
    for depth, folder in enumerate(parents, 1):
        if folder in LISTS:
            continue
        variables = file["/".join(parents[:depth])].get("vars")
        name = _one_text(variables, "name") if isinstance(variables, h5py.Group) else None
        names.append(name if name and len(name) < 1000 else folder)
    return "/".join([*names, index])


def _tensor(path: Path, full: str, key: str, dataset: h5py.Dataset) -> Tensor:
    name = printable(full)
    shape, dtype = hdf5_dataset.declared(path, name, dataset)
    return Tensor(name, key, shape, dtype, lambda: hdf5_dataset.read(path, name, dataset))


def _names(path: Path, group: Any, attribute: str) -> list[str]:
    """A list of names; Keras splits one that is too long for an attribute into attribute0, attribute1, ..."""
    parts = [attribute] if attribute in group.attrs else []
    while not (parts and parts[0] == attribute) and f"{attribute}{len(parts)}" in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    if not parts:
        refuse(path, f"group {printable(group.name)} has no attribute {attribute}; Keras always writes it.")
    names: list[str] = []
    for part in parts:
        names += _texts(path, group, part)
    if len(set(names)) != len(names):
        refuse(path, f"{attribute} of {printable(group.name)} lists a name twice.")
    return names


def _texts(path: Path, group: Any, attribute: str) -> list[str]:
    found = h5py.h5a.open(group.id, attribute.encode())
    count = int(np.prod(found.shape)) if found.shape is not None else -1
    if found.shape == (0,):
        return []  # Keras writes an empty float array for a layer without weights
    if len(found.shape or ()) != 1 or count > MAX_ATTRIBUTE_ITEMS or not hdf5_text.is_text(found):
        refuse(path, f"attribute {attribute} of {printable(group.name)} is no list of names.")
    values = group.attrs[attribute]
    return [_text(path, attribute, value) for value in values]


def _text(path: Path, attribute: str, value: Any) -> str:
    text = value.decode("utf-8", "strict") if isinstance(value, bytes) else value
    if not isinstance(text, str) or not 0 < len(text) < 1000:
        refuse(path, f"attribute {attribute} holds something that is no name.")
    if text.startswith("/") or any(part in ("", ".", "..") for part in text.split("/")):
        refuse(path, f"attribute {attribute} holds {printable(text)!r}, which is no name inside the file.")
    return text


def _json(path: Path, file: Any, attribute: str) -> Any:
    """A JSON attribute as plain data, or None. Nothing in it is ever built or run."""
    if attribute not in file.attrs:
        return None
    found = h5py.h5a.open(file.id, attribute.encode())
    text = _one_text(file, attribute) if found.get_storage_size() <= MAX_JSON_BYTES else None
    if text is None:
        refuse(path, f"attribute {attribute} is no text of at most {MAX_JSON_BYTES:,} bytes.")
    if len(text) > MAX_JSON_BYTES:
        refuse(path, f"attribute {attribute} has {len(text):,} characters. Expected at most {MAX_JSON_BYTES:,}.")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        refuse(path, f"attribute {attribute} is not valid JSON.")


def _one_text(thing: Any, attribute: str) -> str | None:
    """An attribute that is one text, or None."""
    if attribute not in thing.attrs:
        return None
    found = h5py.h5a.open(thing.id, attribute.encode())
    if found.shape != () or not hdf5_text.is_text(found):
        return None
    value = thing.attrs[attribute]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _version(*places: Any) -> str:
    for place in places:
        text = _one_text(place, "keras_version")
        if text and re.fullmatch(r"[\w.+-]{1,30}", text):
            return text
    return "1"  # the first versions did not write it


def _first_clause(error: BaseException) -> str:
    return printable(re.sub(r"\s+", " ", str(error)).split(" (")[0])[:120]
