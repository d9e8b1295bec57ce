"""What other frameworks compute from their own weight files: the outputs of every block, as plain arrays.

Each runner takes (path, plan, inputs) with float32 inputs [n, size, size, 3] in the file's own colour order and returns
(the runtime's name, {stage: NHWC or [n, features] array}). A file is run only after our reader has accepted it, and no
class that a file names is built unless it is a plain layer.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vgg_flax.errors import UserError
from weights_convert import keras_config
from weights_convert.convert import Plan
from weights_convert.rules import TOP_LAYERS, TORCH
from weights_convert.tensor import KERAS_3, Source, printable

Runner = Callable[[Path, Plan, np.ndarray], tuple[str, dict[str, np.ndarray]]]
FRAMEWORKS = {  # module: (its name for people, what pip calls it)
    "keras": ("Keras", "'vgg_flax[keras]'"),
    "onnxruntime": ("onnxruntime", "'vgg_flax[onnxruntime]'"),
    "torch": ("PyTorch", "torch"),
}
PLAIN = {"Conv2D", "MaxPooling2D", "Flatten", "GlobalAveragePooling2D", "Dense", "BatchNormalization", "Activation"}
PLAIN |= {"ReLU", "Softmax", "Rescaling", "Normalization", "ZeroPadding2D", "GlobalMaxPooling2D", "AveragePooling2D"}
PLAIN |= {"Reshape", "GetItem", "Stack", "Add", "Subtract", "Multiply", "TrueDivide"}


def choose(source: Source, plan: Plan) -> Runner:
    """The runner for a file. Raises UserError when nothing here runs such files."""
    files = source.format.startswith("Keras") and source.path.suffix in (".h5", ".hdf5", ".keras")
    if files and source.whole:
        for layer in keras_config.read(source.path, source.config).layers:
            if layer.kind not in PLAIN and not layer.idle:
                raise UserError(f"{source.path} has a {layer.title}, and is not built. Expected plain layers.")
        return keras_model
    if source.format == KERAS_3 and not source.path.name.endswith(".weights.h5"):
        raise UserError(f"{source.path} holds {KERAS_3}, which Keras loads only from a name that ends so. Rename it.")
    if files:
        return keras_weights
    if source.format.startswith("ONNX"):
        return onnx_graph
    if plan.dialect in ("torchvision", "timm") and source.format != "TorchScript":  # whose code would run
        return torch_state
    raise UserError(f"{source.path}: nothing here runs {source.format} of {plan.dialect}. Expected Keras, ONNX, torch.")


def published(plan: Plan, images: np.ndarray) -> np.ndarray:
    """uint8 RGB pictures as the dialect's own framework prepares them, in its colour order."""
    if (plan.mean, plan.std) == TORCH:
        torch = framework("torch")
        scaled = torch.tensor(images).float() / 255
        return ((scaled - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])).numpy()
    keras = framework("keras")
    prepared = keras.applications.vgg16.preprocess_input(images.astype(np.float32))
    return prepared if plan.bgr else prepared[..., ::-1]


def framework(name: str, otherwise: str = "") -> Any:
    """Keras, onnxruntime or torch. Raises UserError where it is missing, with how to install it, or do without."""
    os.environ.setdefault("KERAS_BACKEND", "jax")  # read once, when Keras is imported
    try:
        return importlib.import_module(name)
    except ImportError:
        title, package = FRAMEWORKS[name]
        raise UserError(f"{title} is missing, which runs this file: pip install {package}{otherwise}.") from None


def keras_blocks(layers: Any, x: Any, widths: tuple[tuple[int, ...], ...]) -> list[Any]:
    """VGG's convolutions on a tensor of Keras: what the max-pool of each block gives."""
    pools = []
    for i, block in enumerate(widths, 1):
        for j, width in enumerate(block, 1):
            x = layers.Conv2D(width, 3, padding="same", activation="relu", name=f"block{i}_conv{j}")(x)
        x = layers.MaxPooling2D(2, name=f"block{i}_pool")(x)
        pools.append(x)
    return pools


def first_line(error: Exception) -> str:
    """What another framework complains of, short enough for a line of ours."""
    return printable((str(error).strip() or repr(error)).splitlines()[0])[:150].rstrip(".")


def keras_model(path: Path, plan: Plan, inputs: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
    """A whole model, layer by layer."""
    keras = framework("keras")
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras's errors have no common type
        raise UserError(f"{path}: Keras {keras.__version__} can't load it: {first_line(error)}.") from None
    traced = len(getattr(model, "operations", model.layers)) > len(model.layers)  # such as preprocess_input
    found = _answer(np.asarray(model(inputs, training=False))) if traced else _walk(keras, model, inputs)
    return f"Keras {keras.__version__}", found


def keras_weights(path: Path, plan: Plan, inputs: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
    """A weights file, loaded by Keras into the architecture of its own `applications`, in the file's own widths."""
    keras = framework("keras")
    layers = keras.layers
    images = keras.Input(inputs.shape[1:])
    *_, x = keras_blocks(layers, images, plan.blocks)
    if plan.dense == TOP_LAYERS:
        x = layers.Flatten(name="flatten")(x)
        shapes = {tensor.key: tensor.shape for tensor in plan.source.tensors}
        for name in TOP_LAYERS:
            width = shapes[f"{name}/kernel"][-1]
            x = layers.Dense(width, activation="softmax" if name == "predictions" else "relu", name=name)(x)
    model = keras.Model(images, x)
    for layer in model.layers:
        layer.set_weights([np.full_like(array, np.nan) for array in layer.get_weights()])
    # By name, Keras passes over a head of the file's own; its newer format has an order and no names.
    options = {"by_name": True} if plan.dialect == "keras" and not path.name.endswith(".weights.h5") else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of layers that are not filled, which is checked here
            model.load_weights(path, **options)
    except Exception as error:
        raise UserError(f"{path}: Keras can't load it into a VGG laid out flat: {first_line(error)}.") from None
    if empty := [layer.name for layer in model.layers if any(np.isnan(array).any() for array in layer.get_weights())]:
        raise UserError(f"{path}: Keras finds no weights for {empty[0]} in it. Expected a VGG laid out flat.")
    return f"Keras {keras.__version__}", _walk(keras, model, inputs)


def _walk(keras: Any, model: Any, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Every layer on the output of the one before; a chain, as `keras_config.Graph.behind` has checked."""
    import jax

    found: dict[str, np.ndarray] = {}
    dense = 0
    x: Any = inputs
    stack = [model]
    flat: list[Any] = []
    while stack:
        layer = stack.pop(0)
        inner = getattr(layer, "layers", None)
        if inner is not None:
            stack = [*inner, *stack]
        else:
            flat.append(layer)
    folded = any(isinstance(layer, keras.layers.BatchNormalization) for layer in flat)
    with jax.default_matmul_precision("float32"):
        for layer in flat:
            if isinstance(layer, keras.layers.InputLayer):
                continue
            x = layer(x, training=False) if "training" in layer._call_signature.parameters else layer(x)
            if isinstance(layer, keras.layers.MaxPooling2D):
                found[f"block{len([k for k in found if k.startswith('block')]) + 1}"] = np.asarray(x)
            if isinstance(layer, keras.layers.Dense):
                dense += 1
                if layer.activation.__name__ == "relu" and not folded:
                    found[f"fc{dense}"] = np.asarray(x)
    return found | _answer(np.asarray(x)) if dense else found


def _answer(last: np.ndarray) -> dict[str, np.ndarray]:
    """The last layer's output [n, classes], under the name of what it is."""
    if last.shape[1] == 1:  # one sigmoid, imported as two classes
        last = np.concatenate([1 - last, last], 1)
    sums_to_one = last.min() >= 0 and np.allclose(last.sum(1), 1, atol=1e-4)
    return {"probabilities" if sums_to_one else "logits": last}


def onnx_graph(path: Path, plan: Plan, inputs: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
    """An ONNX graph, the outputs of its pools and of the ReLUs behind them asked for, too."""
    import onnx

    from weights_convert.readers import onnx_tensor

    runtime = framework("onnxruntime")
    model = onnx.load(str(path), load_external_data=False)
    attributes = [one for node in model.graph.node for one in node.attribute]
    if model.functions or any(one.HasField("g") or one.graphs for one in attributes):
        raise UserError(f"{path} has graphs inside its graph, and is not run. Expected a plain VGG.")
    for tensor in (*model.graph.initializer, *(one.t for one in attributes if one.HasField("t"))):
        onnx_tensor.bring_in(path, tensor)  # so that the runtime opens no file
    pools = [i for i, node in enumerate(model.graph.node) if node.op_type == "MaxPool"]
    hidden = [node.output[0] for node in model.graph.node[pools[-1] :] if node.op_type == "Relu"]
    stages = {f"block{i}": model.graph.node[k].output[0] for i, k in enumerate(pools, 1)}
    stages |= {f"fc{i}": name for i, name in enumerate(hidden, 1)}
    last = model.graph.node[-1]
    stages["logits" if last.op_type == "Softmax" else "last"] = (
        last.input[0] if last.op_type == "Softmax" else model.graph.output[0].name
    )
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(stages.values()))
    weights = {tensor.name for tensor in model.graph.initializer}
    (entry,) = [one for one in model.graph.input if one.name not in weights]
    shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    if entry.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise UserError(f"{path} takes other numbers than float32. For an export of ours: verify RUN {path}.")
    if len(shape) == 4 and shape[1] == 3:
        inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    try:
        session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        rows = [inputs[i : i + 1] for i in range(len(inputs))] if shape[:1] == [1] else [inputs]
        outputs = [session.run(list(stages.values()), {entry.name: row}) for row in rows]
    except Exception as error:  # onnxruntime's errors have no common type
        raise UserError(f"{path}: onnxruntime can't run it: {first_line(error)}.") from None
    found = {stage: np.concatenate(parts) for stage, parts in zip(stages, zip(*outputs, strict=True), strict=True)}
    found |= {name: value.transpose(0, 2, 3, 1) for name, value in found.items() if name.startswith("block")}
    answer = found.pop("last", np.zeros(0))
    return f"onnxruntime {runtime.__version__}", found | (_answer(answer) if answer.ndim == 2 else {})


def torch_state(path: Path, plan: Plan, inputs: np.ndarray) -> tuple[str, dict[str, np.ndarray]]:
    """A state_dict, run convolution by convolution with torch's own functions."""
    torch = framework("torch")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: Any = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    while not any(isinstance(value, torch.Tensor) for value in state.values()):
        state = next(value for value in state.values() if isinstance(value, dict))
    state = {printable(name): value.float() for name, value in state.items() if isinstance(value, torch.Tensor)}
    functional = torch.nn.functional
    found: dict[str, np.ndarray] = {}
    x = torch.tensor(np.ascontiguousarray(inputs.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        for i, block in enumerate(plan.blocks, 1):
            for j in range(1, len(block) + 1):
                kernel, bias = (plan.moves[f"backbone/block{i}_conv{j}/{part}"] for part in ("kernel", "bias"))
                x = functional.conv2d(x, state[kernel.tensor.name], state.get(bias.tensor.name), padding=1)
                if kernel.norm:
                    norm = {part.key.rpartition("/")[2]: state[part.name] for part in kernel.norm}
                    mean, variance = norm["moving_mean"], norm["moving_variance"]
                    x = functional.batch_norm(x, mean, variance, norm.get("gamma"), norm.get("beta"))
                x = functional.relu(x)
            x = functional.max_pool2d(x, 2)
            found[f"block{i}"] = x.numpy().transpose(0, 2, 3, 1)
        names = {tensor.key: tensor.name for tensor in plan.source.tensors}
        for name in TOP_LAYERS if plan.dense == TOP_LAYERS else ():
            weight, bias = (state[names[f"{name}/{part}"]] for part in ("kernel", "bias"))
            x = functional.linear(x.flatten(1), weight.flatten(1), bias)
            x = x if name == "predictions" else functional.relu(x)
            found["logits" if name == "predictions" else name] = x.numpy()
    return f"PyTorch {torch.__version__}", found
