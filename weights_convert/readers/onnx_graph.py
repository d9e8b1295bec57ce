"""ONNX models: the convolutions and dense layers of a VGG, found by following the graph and not by names.

tf2onnx, keras2onnx and torch.onnx name their initialisers differently, but VGG is a chain of Conv, Relu and
MaxPool followed by Gemm or MatMul. Source: the ONNX operator documents; graph nodes are in topological order.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

from weights_convert.readers import onnx_tensor
from weights_convert.readers.base import MAX_TENSORS, Source, Tensor, printable, refuse, unique
from weights_convert.rules import DEPTHS


@contextlib.contextmanager
def open_onnx(path: Path) -> Iterator[Source]:
    """Open an ONNX model. External data is read only from files in the model's own folder.

    Raises:
      WeightFileError: no ONNX model, damaged, or a graph that is no VGG.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError, OSError):
        refuse(
            path,
            "is no weight file that is known here, or it is damaged. Expected Keras, ONNX, PyTorch or NumPy.",
        )
    if not model.graph.node:
        refuse(path, "holds no ONNX graph. Is it a weight file, and whole?")
    yield describe(path, model)


def describe(path: Path, model: onnx.ModelProto) -> Source:
    """The tensors of a parsed model, with keys such as `conv/0/weight` and `dense/2/in_out/weight`."""
    graph = Graph(path, model.graph)
    keys = graph.keys()
    tensors, spare = [], []
    for name, proto in graph.constants.items():
        if name in keys:
            shape, dtype = onnx_tensor.declared(path, printable(name), proto)
            load = _loader(path, printable(name), proto)
            tensors.append(Tensor(printable(name), keys[name], shape, dtype, load))
        elif proto.data_type in (
            TensorProto.FLOAT,
            TensorProto.FLOAT16,
            TensorProto.DOUBLE,
            TensorProto.BFLOAT16,
        ):
            shape, dtype = onnx_tensor.declared(path, printable(name), proto)
            tensors.append(
                Tensor(printable(name), f"other/{name}", shape, dtype, _loader(path, printable(name), proto))
            )
        else:
            spare.append((printable(name), "constant of the graph, no weight"))
    tensors.sort(key=lambda tensor: (tensor.key.startswith("other/"), graph.order.get(tensor.key, 0)))
    producer = printable(f"{model.producer_name} {model.producer_version}".strip() or "an unnamed tool")
    dialect = "onnx-torch" if "torch" in model.producer_name.lower() else "onnx-keras"
    return Source(path, f"ONNX by {producer}", (dialect,), unique(path, tensors), tuple(spare), graph.facts)


def _loader(path: Path, name: str, proto: TensorProto) -> Any:
    return lambda: onnx_tensor.read(path, name, proto)


class Graph:
    """The chain of a VGG graph."""

    def __init__(self, path: Path, graph: onnx.GraphProto):
        self.path = path
        self.nodes = list(graph.node)
        if len(self.nodes) > MAX_TENSORS or len(graph.initializer) > MAX_TENSORS:
            refuse(
                path,
                f"has {len(self.nodes):,} nodes and {len(graph.initializer):,} tensors; a VGG has under 200.",
            )
        if graph.sparse_initializer:
            refuse(path, "holds sparse tensors, which are not read.")
        self.constants = self._constants(graph)
        self.readers: dict[str, list[int]] = {}
        for i, node in enumerate(self.nodes):
            for name in node.input:
                self.readers.setdefault(name, []).append(i)
        self.order: dict[str, int] = {}
        self.facts: dict[str, Any] = {}

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

    def keys(self) -> dict[str, str]:
        """{constant's name: key} of every convolution and dense layer; the chain must be a VGG's."""
        convs = [i for i, node in enumerate(self.nodes) if node.op_type == "Conv"]
        if not convs:
            refuse(self.path, "has no convolutions in its graph. Expected the 13 of VGG16 or the 16 of VGG19.")
        keys: dict[str, str] = {}
        pools, between = [], []
        for k, i in enumerate(convs):
            node = self.nodes[i]
            self._check_conv(k, node)
            self._take(keys, node.input[1], f"conv/{k}/weight")
            if len(node.input) > 2 and node.input[2]:
                self._take(keys, node.input[2], f"conv/{k}/bias")
            ops, bias = self._until_next(i)
            if bias:
                self._take(keys, bias, f"conv/{k}/bias")
            between.append(ops)
            pools.append("MaxPool" in ops)
        self._check_chain(between)
        self._check_blocks(pools)
        self._dense(keys, convs[-1])
        return keys

    def _take(self, keys: dict[str, str], name: str, key: str) -> None:
        if name not in self.constants:
            refuse(
                self.path,
                f"the graph computes {key} ({printable(name)}) instead of storing it. Is it quantised?",
            )
        if name in keys:
            refuse(
                self.path,
                f"tensor {printable(name)} serves two layers. Expected each of VGG's layers to have its own.",
            )
        keys[name] = key
        self.order[key] = len(self.order)

    def _check_conv(self, k: int, node: onnx.NodeProto) -> None:
        facts = {a.name: list(a.ints) for a in node.attribute if a.ints}
        same = facts.get("pads", [1] * 4) == [1] * 4
        plain = facts.get("strides", [1, 1]) == [1, 1] and facts.get("dilations", [1, 1]) == [1, 1]
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        if len(node.input) < 2 or not (same and plain and group == 1):
            refuse(
                self.path,
                f"convolution {k + 1} is no plain 3x3 convolution of VGG (pads, strides or groups differ).",
            )

    def _until_next(self, i: int) -> tuple[list[str], str | None]:
        """Operators after node i up to the next Conv, MaxPool or fork, and the constant added as a bias."""
        ops: list[str] = []
        bias = None
        while True:
            readers = self.readers.get(self.nodes[i].output[0], [])
            if len(readers) != 1 or len(ops) > 8:
                return ops, bias
            node = self.nodes[readers[0]]
            if node.op_type == "Conv":
                return ops, bias
            constant = next((name for name in node.input if name in self.constants), None)
            if node.op_type == "Add" and not ops and bias is None and constant:
                bias = constant
            else:
                ops.append(node.op_type)
                if node.op_type == "MaxPool":
                    self._check_pool(node)
                    return ops, bias
            i = readers[0]

    def _check_pool(self, node: onnx.NodeProto) -> None:
        facts = {a.name: list(a.ints) for a in node.attribute if a.ints}
        if facts.get("kernel_shape") != [2, 2] or facts.get("strides") != [2, 2] or any(facts.get("pads", [])):
            refuse(self.path, f"max-pool {printable(node.name)} is no 2x2 pool of stride 2, as VGG's are.")

    def _check_chain(self, between: list[list[str]]) -> None:
        for k, ops in enumerate(between):
            if ops not in (["Relu"], ["Relu", "MaxPool"]):
                has = ", ".join(map(printable, ops)) or "nothing"
                refuse(
                    self.path,
                    f"is no VGG: after convolution {k + 1} comes {has}. Expected Relu, or Relu and MaxPool.",
                )

    def _check_blocks(self, pools: list[bool]) -> None:
        ends = [0, *(k for k, pool in enumerate(pools, 1) if pool)]
        sizes = tuple(end - start for start, end in itertools.pairwise(ends))
        if sizes not in DEPTHS.values() or not pools[-1]:
            has = " and ".join(", ".join(map(str, sizes)).rsplit(", ", 1)) or "no"
            refuse(self.path, f"is no VGG: it has blocks of {has} convolutions. Expected 2, 2, 3, 3 and 3, or VGG19's.")

    def _dense(self, keys: dict[str, str], last_conv: int) -> None:
        """Gemm and MatMul nodes after the last convolution, in order, with the layout of their weights."""
        k = 0
        ops: list[str] = []
        for node in self.nodes[last_conv + 1 :]:
            ops.append(node.op_type)
            if node.op_type not in ("Gemm", "MatMul") or len(node.input) < 2 or node.input[1] not in self.constants:
                continue
            flipped = next((a.i for a in node.attribute if a.name == "transB"), 0)
            layout = "out_in" if flipped else "in_out"
            if k == 0:
                self.facts["flatten"] = "hwc" if "Transpose" in ops else "chw"
                layout += "_first"
            self._take(keys, node.input[1], f"dense/{k}/{layout}/weight")
            bias = node.input[2] if len(node.input) > 2 else self._added(node.output[0])
            if bias in self.constants:
                self._take(keys, bias, f"dense/{k}/bias")
            k += 1

    def _added(self, name: str) -> str:
        readers = [self.nodes[i] for i in self.readers.get(name, [])]
        if len(readers) == 1 and readers[0].op_type == "Add":
            return next((entry for entry in readers[0].input if entry in self.constants), "")
        return ""
