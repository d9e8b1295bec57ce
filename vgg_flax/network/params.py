"""Tools on the parameter tree: a plain nested dict of arrays, its paths Keras's layer names.

backbone/block1_conv1/kernel [3, 3, in, out]     head/fc1/kernel [in, out]     head/predictions/bias [out]
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

Params = dict[str, Any]  # nested dicts, arrays at the leaves


def flatten(params: Params, prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {"a/b/c": leaf}, sorted by path."""
    flat = {}
    for name in sorted(params):
        value, path = params[name], f"{prefix}{name}"
        flat |= flatten(value, f"{path}/") if isinstance(value, dict) else {path: value}
    return flat


def unflatten(flat: dict[str, Any]) -> Params:
    """{"a/b/c": leaf} -> nested dict."""
    params: Params = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return params


def partition(params: Params, chosen: Callable[[str], bool]) -> tuple[Params, Params]:
    """Split into (paths that are chosen, all the others).

    Freezing is this split: gradients are taken of the first part alone.

    Raises:
      ValueError: nothing is chosen.
    """
    flat = flatten(params)
    first = {path: value for path, value in flat.items() if chosen(path)}
    if not first:
        raise ValueError(f"none of {', '.join(flat)} is chosen.")
    return unflatten(first), unflatten({path: value for path, value in flat.items() if path not in first})


def combine(*parts: Params) -> Params:
    """The inverse of `partition`: one tree from parts that share no path."""
    merged: dict[str, Any] = {}
    for part in parts:
        flat = flatten(part)
        if twice := merged.keys() & flat.keys():
            raise ValueError(f"given twice: {', '.join(sorted(twice))}.")
        merged |= flat
    return unflatten(merged)


def merge_strict(expected: Params, found: Params) -> Params:
    """`found`, after checking that it has exactly the paths and shapes of `expected`.

    Raises:
      ValueError: names every missing and unexpected path and every wrong shape.
    """
    want, have = flatten(expected), flatten(found)
    wrong = [f"missing {path} {tuple(want[path].shape)}" for path in want if path not in have]
    wrong += [f"unexpected {path} {tuple(have[path].shape)}" for path in have if path not in want]
    wrong += [
        f"{path} has shape {tuple(have[path].shape)}, expected {tuple(want[path].shape)}"
        for path in want
        if path in have and tuple(have[path].shape) != tuple(want[path].shape)
    ]
    if wrong:
        raise ValueError("parameters do not fit: " + "; ".join(wrong) + ".")
    return unflatten(have)


def digest(params: Params) -> str:
    """SHA-256 over paths, shapes, dtypes and bytes, as hexadecimal."""
    sha = hashlib.sha256()
    for path, leaf in flatten(params).items():
        array = np.ascontiguousarray(leaf)
        sha.update(f"{path} {array.shape} {array.dtype.str}\n".encode())
        sha.update(array.data)
    return sha.hexdigest()
