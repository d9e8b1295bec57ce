"""What an ONNX graph does from its first convolution on, in Keras's terms.

A VGG is a chain of few operators, and each of them is a Keras layer: Gemm is Dense, ReduceMean over height
and width is GlobalAveragePooling2D. What is none of these keeps its operator's name, which no head of ours has.
Constants become tensors such as `head_2/kernel`, as Keras lays them out. Source: the ONNX operator documents.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from weights_convert.keras_config import ADAPTIVE
from weights_convert.mapping import from_oihw, rows_from_chw
from weights_convert.readers import onnx_tensor
from weights_convert.readers.onnx_tensor import Convert, Use
from weights_convert.tensor import printable, refuse

POOLS = {"GlobalAveragePool": "GlobalAveragePooling2D", "ReduceMean": "GlobalAveragePooling2D"}
POOLS |= {"GlobalMaxPool": "GlobalMaxPooling2D", "ReduceMax": "GlobalMaxPooling2D"}
ACTIVATIONS = {"Relu": "relu", "Softmax": "softmax", "LogSoftmax": "softmax", "Sigmoid": "sigmoid"}
IDLE = {"Identity", "Dropout", "Cast", "Squeeze"}
AFFINE: dict[str, tuple[str, Convert]] = {
    "Mul": ("scale", lambda x: x),
    "Div": ("scale", lambda x: 1 / x),
    "Add": ("offset", lambda x: x),
    "Sub": ("offset", lambda x: -x),
}


class Part:
    """A chain of operators as it is walked, from the first convolution on.

    Attributes:
      layers: Keras's configurations, {"class_name", "config"}.
      used: {constant's name: what it becomes}.
    """

    def __init__(self, path: Path, constants: dict[str, Any]):
        self.layers: list[dict[str, Any]] = []
        self.used: dict[str, Use] = {}
        self._path, self._constants, self._channels = path, constants, 0
        self._channels_last = False
        self._rows: str | None = None  # layout of the next dense kernel's input, once flattened
        self._pools, self._start, self._bare = 0, 0, ""  # a convolution that has no bias yet

    def add(self, node: onnx.NodeProto) -> None:
        """Take one operator."""
        kind = node.op_type
        ints = {a.name: list(a.ints) for a in node.attribute}
        facts = {a.name: a.f if a.type == onnx.AttributeProto.FLOAT else a.i for a in node.attribute}
        stored = [name for name in node.input if name in self._constants]
        bare, self._bare = self._bare, ""
        if kind == "Transpose":
            self._channels_last = ints.get("perm") == [0, 2, 3, 1]
            if not self._channels_last and ints.get("perm") != [0, 3, 1, 2]:
                self._unknown(node)
        elif kind == "Conv":
            self._conv(node, ints, facts)
        elif kind == "MaxPool" and self._pools < 5:
            padded = any(ints.get("pads", [])) or facts.get("ceil_mode") or "auto_pad" in facts
            pool = {"pool_size": ints.get("kernel_shape"), "strides": ints.get("strides", [1, 1])}
            self._layer("MaxPooling2D", padding="same" if padded else "valid", **pool)
            self._pools += 1
            self._start = len(self.layers) if self._pools == 5 else 0
        elif kind == "Add" and bare and stored:
            self._vector(stored[0], f"{bare}/bias")
            self.layers[-1]["config"]["use_bias"] = True
        elif kind in ("Flatten", "Reshape"):
            if self._rows is None:
                self._rows = "in_out" if self._channels_last else "chw"
                self._layer("Flatten")
        elif kind in POOLS and self._is_global(node, ints.get("axes", [])):
            self._rows = self._rows or "in_out"
            self._layer(POOLS[kind])
        elif kind == "AdaptiveAveragePool":
            self._layer(ADAPTIVE, output_size=facts["size"])
        elif kind == "AveragePool" and set(ints.get("kernel_shape", [0])) == {1}:
            pass  # torch's adaptive pool where there is nothing to adapt
        elif kind in ("AveragePool", "MaxPool") and not any(ints.get("pads", [])) and not facts.get("ceil_mode"):
            sizes = {"pool_size": ints.get("kernel_shape"), "strides": ints.get("strides", [1, 1])}
            self._layer(
                f"{kind.removesuffix('Pool')}Pooling2D", padding="other" if "auto_pad" in facts else "valid", **sizes
            )
        elif kind in ("Gemm", "MatMul") and len(node.input) > 1 and node.input[1] in self._constants:
            self._dense(node, facts)
        elif kind in ACTIVATIONS and facts.get("axis", -1) in (-1, 1):
            self._layer("Activation", activation=ACTIVATIONS[kind])
        elif kind == "BatchNormalization" and len(stored) == 4:
            name = self._layer(kind, epsilon=facts.get("epsilon", 1e-5))
            for constant, part in zip(stored, ("gamma", "beta", "moving_mean", "moving_variance"), strict=True):
                self._vector(constant, f"{name}/{part}")
        elif kind in AFFINE and len(stored) == 1 and (kind in ("Mul", "Add") or node.input[1] == stored[0]):
            self._affine(kind, node, stored[0])
        elif kind not in IDLE:
            self._unknown(node)

    def _conv(self, node: onnx.NodeProto, ints: dict[str, list[int]], facts: dict[str, Any]) -> None:
        auto = next((a.s for a in node.attribute if a.name == "auto_pad"), b"NOTSET")
        pads = ints.get("pads", [1 if auto.startswith(b"SAME") else 0] * 4)
        bias = len(node.input) > 2 and bool(node.input[2])
        padding = "same" if set(pads) == {1} else "other" if any(pads) else "valid"
        steps = {"strides": ints.get("strides", [1, 1]), "dilation_rate": ints.get("dilations", [1, 1])}
        name = self._layer("Conv2D", padding=padding, groups=facts.get("group", 1), use_bias=bias, **steps)
        weight = node.input[1] if len(node.input) > 1 else ""
        if weight not in self._constants:
            what = f"the graph computes {name}/kernel ({printable(weight)}) instead of storing it"
            refuse(self._path, f"{what}. Is it quantised?")
        dims = self._dims(weight)
        self._channels = next(iter(dims), 0)
        shape = (*dims[2:], dims[1], dims[0]) if len(dims) == 4 else dims
        self._use(weight, f"{name}/kernel", shape, from_oihw)
        if bias:
            self._vector(node.input[2], f"{name}/bias")
        self._bare = "" if bias else name

    def _dense(self, node: onnx.NodeProto, facts: dict[str, Any]) -> None:
        dims, flipped = self._dims(node.input[1]), bool(facts.get("transB", 0))
        plain = facts.get("alpha", 1.0) == 1 and facts.get("beta", 1.0) == 1 and not facts.get("transA", 0)
        if not plain or len(dims) != 2:
            self._unknown(node)
            return
        name = self._layer("Dense", use_bias=len(node.input) > 2, activation="linear")
        channels = self._channels if self._rows == "chw" else 0

        def kernel(array: np.ndarray) -> np.ndarray:
            array = array if flipped else array.T
            return rows_from_chw(array, channels) if channels else array.T

        self._use(node.input[1], f"{name}/kernel", dims[::-1] if flipped else dims, kernel)
        self._rows = "in_out"
        if len(node.input) > 2:
            self._vector(node.input[2], f"{name}/bias")

    def _affine(self, kind: str, node: onnx.NodeProto, constant: str) -> None:
        part, convert = AFFINE[kind]
        name = self._layer("Affine")
        self._vector(constant, f"{name}/{part}", convert)

    def _is_global(self, node: onnx.NodeProto, axes: list[int]) -> bool:
        if node.op_type.startswith("Global"):
            return not self._channels_last
        if not axes and len(node.input) > 1 and node.input[1] in self._constants:
            axes = onnx_tensor.small(self._path, node.input[1], self._constants[node.input[1]])
        return sorted(axis % 4 for axis in np.ravel(axes).tolist() if type(axis) is int) == (
            [1, 2] if self._channels_last else [2, 3]
        )

    def _layer(self, kind: str, **config: Any) -> str:
        name = f"{'head' if self._pools == 5 else 'layer'}_{len(self.layers) - self._start + 1}"
        self.layers.append({"class_name": kind, "config": {"name": name, **config}})
        return name

    def _unknown(self, node: onnx.NodeProto) -> None:
        self._layer(f"operator {printable(node.op_type)}")

    def _vector(self, constant: str, key: str, convert: Convert = lambda array: array) -> None:
        if constant in self._constants:
            shape = (math.prod(self._dims(constant)),)
            columns = self._channels if self._rows == "chw" and self._channels and shape[0] % self._channels == 0 else 1
            # Flattened channel by channel; ours come place by place.
            self._use(constant, key, shape, lambda array: convert(array).reshape(columns, -1).T.reshape(-1))

    def _use(self, constant: str, key: str, shape: tuple[int, ...], convert: Convert) -> None:
        if constant in self.used:
            what = f"tensor {printable(constant)} serves two layers"
            refuse(self._path, f"{what}. Expected each of VGG's layers to have its own.")
        self.used[constant] = Use(key, shape, convert)

    def _dims(self, constant: str) -> tuple[int, ...]:
        return tuple(self._constants[constant].dims)


def input_layer(graph: onnx.GraphProto, constants: dict[str, Any]) -> dict[str, Any]:
    """The picture's declared size as Keras's InputLayer, `[None, height, width, 3]`."""
    entry = next((one for one in graph.input if one.name not in constants), None)
    dims = [dim.dim_value or None for dim in entry.type.tensor_type.shape.dim] if entry else []
    first = len(dims) == 4 and dims[1] == 3
    if first:
        dims = [dims[0], dims[2], dims[3], dims[1]]
    config = {"batch_shape": dims, "layout": "nchw" if first else "nhwc"}
    return keras_entry("InputLayer", "images", config, [])


def keras_entry(kind: str, name: str, config: dict[str, Any], args: list[Any]) -> dict[str, Any]:
    """A layer as Keras 3 writes it."""
    nodes = [{"args": args, "kwargs": {}}] if args else []
    return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": nodes}


def keras_tensor(name: str, output: int = 0) -> dict[str, Any]:
    """What a layer reads of another, as Keras 3 writes it."""
    return {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, output]}}
