"""torch's adaptive average pool, which ONNX has no operator for: known by what its operators compute.

torch.onnx writes it as two dozen gathers, selections and sums, otherwise in each version. They are followed with a map
of random numbers, and what comes out is compared.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from weights_convert.mapping import adaptive
from weights_convert.readers import onnx_tensor

MAX_NODES, MAX_VALUES = 100, 1 << 26
ELEMENTWISE: dict[str, Callable[..., np.ndarray]] = {"Where": np.where, "Add": np.add, "Mul": np.multiply}
ELEMENTWISE |= {"Div": np.true_divide}


def find(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, Any], shape: tuple[int, ...]) -> tuple[int, int]:
    """(side of the map that comes out, index in `nodes` of what reads it), or (0, 0) where there is no such pool.

    Args:
      nodes: the last max-pool, and all that come behind it.
      shape: [1, channels, side, side] of its output.
    """
    maps = np.random.default_rng(0).normal(size=shape)
    values, end = {nodes[0].output[0]: maps}, 0
    try:
        for node in nodes[1:MAX_NODES]:
            if not values.keys() & set(node.input):
                continue
            if node.op_type in ("Flatten", "Reshape"):
                end = nodes.index(node)
                break
            inputs = [
                values[name] if name in values else np.array(onnx_tensor.small(path, name, constants[name]))
                for name in node.input
            ]
            values[node.output[0]] = _compute(node, inputs)
        found = values[nodes[end].input[0]]
    except (KeyError, ValueError, IndexError, TypeError):
        return 0, 0
    if found is maps or found.ndim != 4 or found.shape[:2] != shape[:2]:
        return 0, 0
    rows = adaptive(shape[2], found.shape[2])
    pooled = np.einsum("ih,jw,nchw->ncij", rows, rows, maps)
    return (found.shape[2], end) if found.shape == pooled.shape and np.allclose(found, pooled) else (0, 0)


def _compute(node: onnx.NodeProto, inputs: list[np.ndarray]) -> np.ndarray:
    facts: dict[str, Any] = {one.name: list(one.ints) or one.i for one in node.attribute}
    kind, x, index = node.op_type, inputs[0], inputs[-1]
    if kind in ELEMENTWISE and np.broadcast(*inputs).size <= MAX_VALUES:
        return ELEMENTWISE[kind](*inputs)
    if kind == "Transpose":
        return x.transpose(facts["perm"])
    if kind == "ReduceMean" and len(inputs) == 2:
        return x.mean(tuple(index.tolist()), keepdims=bool(facts.get("keepdims", 1)))
    if x.size * index.size > MAX_VALUES or facts.get("batch_dims"):
        raise ValueError
    if kind == "Gather":
        return np.take(x, index, facts.get("axis", 0))
    if kind == "GatherND":
        return x[tuple(np.moveaxis(index, -1, 0))]
    raise ValueError
