"""ONNX models: the convolutions and dense layers of a VGG, found by following the graph and not by names.

tf2onnx, keras2onnx and torch.onnx name their initialisers differently, but VGG is a chain of Conv, Relu and
MaxPool followed by Gemm or MatMul. Source: the ONNX operator documents; graph nodes are in topological order.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from weights_convert.readers import onnx_pool, onnx_tensor
from weights_convert.readers.onnx_head import Part, Use, input_layer, keras_entry, keras_tensor
from weights_convert.tensor import MAX_TENSORS, Source, printable, refuse, unique

MAX_CHAIN = 1000  # operators


@contextlib.contextmanager
def open_onnx(path: Path) -> Iterator[Source]:
    """Open an ONNX model. External data is read only from files in the model's own folder.

    Raises:
      WeightFileError: no ONNX model, damaged, or a graph that is no VGG.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError):
        refuse(path, "is no weight file that is known here, or it is damaged. Expected Keras, ONNX, PyTorch or NumPy.")
    if not model.graph.node:
        refuse(path, "holds no ONNX graph. Is it a weight file, and whole?")
    yield describe(path, model)


def describe(path: Path, model: onnx.ModelProto) -> Source:
    """The tensors of a parsed model, with keys such as `conv/0/weight` and `head_2/kernel`, and its chain of layers."""
    graph = Graph(path, model.graph)
    keys = graph.keys()
    tensors, spare = [], []
    for name, proto in graph.constants.items():
        if name in graph.inside:
            spare.append((printable(name), "of what the model does to a picture first"))
        elif name in keys or proto.data_type in onnx_tensor.DTYPES:
            tensors.append(onnx_tensor.describe(path, name, proto, keys.get(name)))
        else:
            spare.append((printable(name), "constant of the graph, no weight"))
    order = {use.key: i for i, use in enumerate(keys.values())}
    tensors.sort(key=lambda tensor: order.get(tensor.key, len(order)))
    tool = printable(model.producer_name)  # bytes, where it is no UTF-8
    producer = f"{tool} {printable(model.producer_version)}".strip() or "an unnamed tool"
    dialect = "onnx-torch" if "torch" in tool.lower() else "onnx-keras"
    config: dict[str, Any] = {"class_name": "Functional", "config": {"layers": graph.layers}}
    if model.producer_name == "vgg_flax":
        dialect = "onnx-vgg_flax"
        config |= _statistics(model)
    return Source(path, f"ONNX by {producer}", (dialect,), unique(path, tensors), tuple(spare), config)


def _statistics(model: onnx.ModelProto) -> dict[str, str]:
    """{"mean": JSON, "std": JSON} that an export of ours carries, as our safetensors do."""
    try:
        (text,) = (entry.value for entry in model.metadata_props if entry.key == "preprocessing")
        record = json.loads(text)
        return {key: json.dumps(record[key]) for key in ("mean", "std")}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


class Graph:
    """The chain of a VGG graph."""

    def __init__(self, path: Path, graph: onnx.GraphProto):
        self.path = path
        self.nodes = list(graph.node)
        if len(self.nodes) > MAX_TENSORS or len(graph.initializer) > MAX_TENSORS:
            refuse(path, f"has {len(self.nodes):,} nodes and {len(graph.initializer):,} tensors; a VGG has under 200.")
        if graph.sparse_initializer:
            refuse(path, "holds sparse tensors, which are not read.")
        self.constants = self._constants(graph)
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(i)
        self.inside: set[str] = set()  # constants that are applied to the picture
        self.layers = [input_layer(graph, self.constants)]

    def _constants(self, graph: onnx.GraphProto) -> dict[str, TensorProto]:
        found: dict[str, TensorProto] = {}
        pairs = [(tensor.name, tensor) for tensor in graph.initializer]
        pairs += [
            (node.output[0], attribute.t)
            for node in self.nodes
            if node.op_type == "Constant" and node.output
            for attribute in node.attribute
            if attribute.name == "value"
        ]
        for name, tensor in pairs:
            if name in found:
                refuse(self.path, f"tensor {printable(name)} is there twice. Expected every name once.")
            found[name] = tensor
        return found

    def keys(self) -> dict[str, Use]:
        """{constant's name: what it becomes}. Fills `layers`."""
        first = next((i for i, node in enumerate(self.nodes) if node.op_type == "Conv"), None)
        if first is None:
            refuse(self.path, "has no convolutions in its graph. Expected the 13 of VGG16 or the 16 of VGG19.")
        self.layers += self._before(first)
        part = Part(self.path, self.constants)
        for node in (self.nodes[first], *self._behind(first)):
            part.add(node)
        for layer in part.layers:
            before, config = self.layers[-1]["name"], dict(layer["config"])
            self.layers.append(keras_entry(layer["class_name"], config.pop("name"), config, [keras_tensor(before)]))
        return part.used

    def _before(self, end: int) -> list[dict[str, Any]]:
        """The operators between the graph's input and node `end`, as `pixels` reads them."""
        makers = {name: i for i, node in enumerate(self.nodes) for name in node.output}
        needed: set[int] = set()
        stack = [end]
        while stack and len(needed) <= MAX_CHAIN:
            entries = [name for name in self.nodes[stack.pop()].input if name not in self.constants]
            makes = {makers[name] for name in entries if name in makers} - needed
            needed |= makes
            stack += makes
        called = {i: f"{printable(self.nodes[i].op_type)}_{i}" for i in needed}
        outputs = {name: (called[i], k) for i in needed for k, name in enumerate(self.nodes[i].output)}
        found = []
        for i in sorted(needed):
            node = self.nodes[i]
            args = [self._argument(name, outputs) for name in node.input if name]
            facts: dict[str, Any] = {a.name: list(a.ints) or a.i for a in node.attribute if a.type in (a.INT, a.INTS)}
            facts["dtype"] = "int" if node.op_type == "Cast" and facts.get("to") not in onnx_tensor.DTYPES else "float"
            if node.op_type in ("Gather", "Split"):
                facts.setdefault("axis", 0)
            if node.op_type == "Resize":
                facts["interpolation"] = next((printable(a.s) for a in node.attribute if a.name == "mode"), "nearest")
                if isinstance(sizes := args[-1], list) and len(sizes) == 4:
                    facts["size"] = sizes[1:3] if sizes[3] == 3 else sizes[2:]
                args = args[:1]
            found.append(keras_entry(node.op_type, called[i], facts, args))
        first = outputs.get(self.nodes[end].input[0], ("images", 0))
        return [*found, keras_entry("Identity", "pixels", {}, [keras_tensor(*first)])]

    def _argument(self, name: str, outputs: dict[str, tuple[str, int]]) -> Any:
        """What an operator reads: another's output, the picture, or a constant as numbers."""
        if name in self.constants:
            self.inside.add(name)
            return onnx_tensor.small(self.path, name, self.constants[name])
        return keras_tensor(*outputs.get(name, ("images", 0)))

    def _behind(self, i: int) -> list[onnx.NodeProto]:
        """The operators behind node i, in order, up to the first fork; computing a shape is none of them."""
        found: list[onnx.NodeProto] = []
        while len(found) <= MAX_CHAIN:
            readers = [self.nodes[k] for k in self.readers.get(self.nodes[i].output[0], [])]
            readers = [node for node in readers if node.op_type != "Shape"]
            if len(readers) > 1:  # a head may read several blocks; the backbone goes on with a convolution
                readers = [node for node in readers if node.op_type == "Conv"]
            if len(readers) != 1 or not readers[0].output:
                return found
            found.append(readers[0])
            i = next(k for k in self.readers[self.nodes[i].output[0]] if self.nodes[k] is readers[0])
            if sum(node.op_type == "MaxPool" for node in found) == 5 and readers[0].op_type == "MaxPool":
                side, ahead = onnx_pool.find(self.path, self.nodes[i:], self.constants, self._map())
                if side:
                    end = self.nodes[i := i + ahead]
                    found += [onnx.helper.make_node("AdaptiveAveragePool", [], [""], size=side), end]
        return found

    def _map(self) -> tuple[int, ...]:
        """[1, channels, side, side] of block 5 by what the graph declares; sides of 0 where it does not."""
        *_, last = (node for node in self.nodes if node.op_type == "Conv")
        kernel = self.constants.get(last.input[1])
        dims = self.layers[0]["config"]["batch_shape"]
        side = (dims[1] or 0) // 32 if len(dims) == 4 and dims[1] == dims[2] else 0
        channels = kernel.dims[0] if kernel and kernel.dims else 0
        return (1, channels, side, side) if side <= 64 and channels <= 4096 else (1, 0, 0, 0)
