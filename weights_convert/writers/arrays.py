"""Arrays alone: safetensors with our names or torchvision's, and the weights file of `keras.applications`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np

from vgg_flax.answers.bundle import Bundle, entries, measured, write_arrays
from vgg_flax.errors import UserError
from vgg_flax.network.params import Params
from weights_convert.rules import CAFFE, TOP_LAYERS, conv_names


def write(bundle: Bundle, path: Path, name: str) -> None:
    """Write the file. Raises UserError when the format can't hold this model."""
    {"safetensors": _ours, "torchvision": _torchvision, "keras-weights": _keras}[name](bundle, path)


def _ours(bundle: Bundle, path: Path) -> None:
    metadata = {
        "format": "vgg_flax",
        "classes": json.dumps(bundle.classes),
        "head": json.dumps(dataclasses.asdict(bundle.spec.head)),
        "judge": json.dumps(measured(bundle.judge)),
        **{key: json.dumps(value) for key, value in dataclasses.asdict(bundle.preprocessing).items()},
    }
    write_arrays(path, entries(bundle.params), metadata)


def _torchvision(bundle: Bundle, path: Path) -> None:
    """The backbone; its statistics go into the metadata, as torchvision's own may differ."""
    arrays: dict[str, np.ndarray] = {}
    index = 0
    for i, block in enumerate(bundle.spec.backbone.blocks, 1):
        for j in range(1, len(block) + 1):
            params = bundle.params["backbone"][f"block{i}_conv{j}"]
            arrays[f"features.{index}.weight"] = np.asarray(params["kernel"]).transpose(3, 2, 0, 1)
            arrays[f"features.{index}.bias"] = params["bias"]
            index += 2  # a ReLU has an index of its own
        index += 1  # and a pool, too
    statistics = {key: json.dumps(getattr(bundle.preprocessing, key)) for key in ("mean", "std")}
    write_arrays(path, entries(arrays), statistics)


def keras_top(bundle: Bundle) -> Params:
    """The three layers on top, {} unless the head is flatten, fc1, fc2 and predictions. Keras's softmax has no
    temperature, so predictions is divided by ours."""
    head, params = bundle.spec.head, bundle.params["head"]
    if not head.flat or len(head.hidden) != 2 or head.standardize:
        return {}
    last = {
        part: np.asarray(array) / np.float32(bundle.judge.temperature) for part, array in params["predictions"].items()
    }
    return {**params, "predictions": last}


def _keras(bundle: Bundle, path: Path) -> None:
    """As the official files are laid out. Their users feed BGR minus Caffe's means, which must be ours."""
    if (bundle.preprocessing.mean, bundle.preprocessing.std) != CAFFE:
        found = f"mean {bundle.preprocessing.mean} and std {bundle.preprocessing.std}"
        raise UserError(
            f"keras.applications only subtracts ImageNet's mean from a picture; this model was trained with {found}. "
            "Export it whole, as .keras."
        )
    top = keras_top(bundle)
    arrays = {**bundle.params["backbone"], **top}
    layers = conv_names(tuple(map(len, bundle.spec.backbone.blocks))) + [name for name in TOP_LAYERS if top]
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(layers, "S")
        file.attrs["backend"], file.attrs["keras_version"] = np.bytes_("jax"), np.bytes_("2.15.0")
        for layer in layers:
            kernel, bias = (np.asarray(arrays[layer][part]) for part in ("kernel", "bias"))
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array([f"{layer}/kernel:0", f"{layer}/bias:0"], "S")
            group[f"{layer}/kernel:0"] = kernel[:, :, ::-1] if layer == "block1_conv1" else kernel
            group[f"{layer}/bias:0"] = bias
