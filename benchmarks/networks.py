"""The same network and the same pictures for every contender, as files that any library can read.

The weights are random (He's scale, so that values neither die out nor blow up): no contender's speed depends on them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

BLOCKS = {
    "vgg16": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}
MEAN = np.array((123.68, 116.779, 103.939), np.float32)
SAMPLE = "sample: block5 of the first picture, averaged over height and width"


def layers(model: str) -> list[tuple[str, int, int, bool]]:
    """(name, input channels, output channels, whether a pool follows) of every convolution."""
    found, channels = [], 3
    for i, block in enumerate(BLOCKS[model], 1):
        for j, out in enumerate(block, 1):
            found.append((f"block{i}_conv{j}", channels, out, j == len(block)))
            channels = out
    return found


def flops(model: str, size: int) -> float:
    """Operations of the convolutions of one picture, a multiply-add counted as two."""
    total, side = 0.0, size
    for _, inputs, outputs, pool in layers(model):
        total += 2.0 * 9 * inputs * outputs * side**2
        side //= 1 + pool
    return total


def weights(model: str) -> dict[str, np.ndarray]:
    """`NAME/kernel` float32 `[3, 3, in, out]` and `NAME/bias` `[out]`."""
    rng = np.random.default_rng(0)
    found = {}
    for name, inputs, outputs, _ in layers(model):
        scale = np.sqrt(2 / (9 * inputs)).astype(np.float32)
        found[f"{name}/kernel"] = rng.standard_normal((3, 3, inputs, outputs), np.float32) * scale
        found[f"{name}/bias"] = 0.1 * rng.standard_normal(outputs, np.float32)
    return found


def images(batch: int, size: int) -> np.ndarray:
    """Normalised pictures, float32 `[batch, size, size, 3]`."""
    pictures = np.random.default_rng(1).integers(0, 256, (batch, size, size, 3), np.uint8)
    return pictures.astype(np.float32) - MEAN


def write_onnx(model: str, path: Path) -> None:
    """The network as ONNX, NCHW, with batch, height and width left open. Needs the `onnx` package."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, last, values = [], [], "images", weights(model)
    for name, _, _, pool in layers(model):
        kernel = np.ascontiguousarray(values[f"{name}/kernel"].transpose(3, 2, 0, 1))
        constants.append(numpy_helper.from_array(kernel, f"{name}_kernel"))
        constants.append(numpy_helper.from_array(values[f"{name}/bias"], f"{name}_bias"))
        inputs = [last, f"{name}_kernel", f"{name}_bias"]
        nodes.append(helper.make_node("Conv", inputs, [f"{name}_sum"], kernel_shape=[3, 3], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"{name}_sum"], [name]))
        last = name
        if pool:
            nodes.append(helper.make_node("MaxPool", [name], [f"{name}_pool"], kernel_shape=[2, 2], strides=[2, 2]))
            last = f"{name}_pool"
    shapes = (("images", ["batch", 3, "height", "width"]), (last, ["batch", 512, "rows", "columns"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    graph = helper.make_graph(nodes, model, ends[:1], ends[1:], constants)
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(whole, str(path))
