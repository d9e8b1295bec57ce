"""ONNX, written node by node: uint8 RGB [batch, size, size, 3] in, probabilities [batch, classes] out.

Preprocessing and temperature are in the graph, class names and the training record in its metadata. Kernels stored as
float16 or int8 become float32 in the graph's first nodes, which a runtime does once. Source: the ONNX operator
documents, opset 17.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vgg_flax import __version__
from vgg_flax.answers.bundle import Bundle, measured
from vgg_flax.network.spec import dense_layers
from weights_convert.rounding import Weights, to_int8

OPSET, IR_VERSION = 17, 8


class _Graph:
    """Nodes and constants as they are added; `value` is the name of the last output."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.value = "images"

    def add(self, kind: str, *constants: tuple[str, np.ndarray], name: str, value: str = "", **attributes: Any) -> str:
        """Append an operator that reads `value`, by default the last output, and constants."""
        inputs = [value or self.value, *(self._constant(n, a) for n, a in constants)]
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        self.value = name
        return name

    def _constant(self, name: str, array: np.ndarray) -> str:
        """Store an array, a kernel in the type that is asked for; returns the name of its float32 value."""
        if self.weights == "float32" or not name.endswith("/kernel"):
            self._store(name, array)
        elif self.weights == "float16":
            self._cast(self._store(f"{name}/float16", array.astype(np.float16)), name)
        else:
            # Not DequantizeLinear: onnxruntime would make an approximate product of it and a Gemm.
            axis = 0 if array.ndim == 4 else 1  # output channels of OIHW, and of [in, out]
            integers, scales = to_int8(np.moveaxis(array, axis, -1))
            shape = [-1 if i == axis else 1 for i in range(array.ndim)]
            whole = self._cast(self._store(f"{name}/int8", np.moveaxis(integers, -1, axis)), f"{name}/whole")
            scale = self._store(f"{name}/scale", scales.reshape(shape))
            self.nodes.append(helper.make_node("Mul", [whole, scale], [name], name=name))
        return name

    def _cast(self, stored: str, name: str) -> str:
        self.nodes.append(helper.make_node("Cast", [stored], [name], name=name, to=TensorProto.FLOAT))
        return name

    def _store(self, name: str, array: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name


def write(bundle: Bundle, path: Path, _: str, weights: Weights = "float32") -> None:
    """Write the file."""
    graph = _Graph(weights)
    blocks = _backbone(graph, bundle)
    _head(graph, bundle, blocks)
    size, classes = bundle.spec.image_size, len(bundle.classes)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", size, size, 3])
    result = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes])
    model = helper.make_model(
        helper.make_graph(graph.nodes, bundle.spec.backbone.name, [images], [result], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="vgg_flax",
        producer_version=__version__,
    )
    record = {
        "classes": bundle.classes,
        "preprocessing": dataclasses.asdict(bundle.preprocessing),
        "judge": measured(bundle.judge),
        "training": bundle.training,
        "weights": weights,
    }
    helper.set_model_props(model, {key: json.dumps(value) for key, value in record.items()})
    path.write_bytes(model.SerializeToString())


def _backbone(graph: _Graph, bundle: Bundle) -> list[str]:
    """The convolutions; returns the names of the blocks' outputs, NCHW."""
    preprocessing = bundle.preprocessing
    graph.add("Cast", name="float_images", to=TensorProto.FLOAT)
    graph.add("Sub", ("mean", np.asarray(preprocessing.mean, np.float32)), name="centred")
    graph.add("Div", ("std", np.asarray(preprocessing.std, np.float32)), name="scaled")
    graph.add("Transpose", name="nchw", perm=[0, 3, 1, 2])
    blocks = []
    for i, block in enumerate(bundle.spec.backbone.blocks, 1):
        for j in range(1, len(block) + 1):
            layer = f"block{i}_conv{j}"
            params = bundle.params["backbone"][layer]
            kernel = (f"{layer}/kernel", np.asarray(params["kernel"]).transpose(3, 2, 0, 1))
            bias = (f"{layer}/bias", np.asarray(params["bias"]))
            graph.add("Conv", kernel, bias, name=f"{layer}/conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3])
            graph.add("Relu", name=layer)
        blocks.append(graph.add("MaxPool", name=f"block{i}_pool", kernel_shape=[2, 2], strides=[2, 2]))
    return blocks


def _head(graph: _Graph, bundle: Bundle, blocks: list[str]) -> None:
    spec, params = bundle.spec.head, bundle.params["head"]
    if spec.flat:
        graph.add("Transpose", name="nhwc", perm=[0, 2, 3, 1])
        graph.add("Flatten", name="features")
    else:
        kinds, read = {"average": "GlobalAveragePool", "maximum": "GlobalMaxPool"}, []
        for i, pool in itertools.product(spec.blocks, spec.pools):
            graph.add(kinds[pool], name=f"block{i}_{pool}", value=blocks[i - 1])
            read.append(graph.add("Flatten", name=f"block{i}_{pool}_flat"))
        if len(read) > 1:
            graph.nodes.append(helper.make_node("Concat", read, ["features"], name="features", axis=1))
            graph.value = "features"
    if spec.standardize:
        constants = {key: np.asarray(params["standardize"][key], np.float32) for key in ("mean", "std")}
        graph.add("Sub", ("features/mean", constants["mean"]), name="features_centred")
        graph.add("Div", ("features/std", constants["std"]), name="features_scaled")
    for layer, _ in dense_layers(spec):
        kernel, bias = (np.asarray(params[layer][part], np.float32) for part in ("kernel", "bias"))
        last = layer == "predictions"
        graph.add(
            "Gemm", (f"{layer}/kernel", kernel), (f"{layer}/bias", bias), name="logits" if last else f"{layer}/sum"
        )
        if not last:
            graph.add("Relu", name=layer)
    graph.add("Div", ("temperature", np.asarray(bundle.judge.temperature, np.float32)), name="calibrated_logits")
    graph.add("Softmax", name="probabilities", axis=1)
