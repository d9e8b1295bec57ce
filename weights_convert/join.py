"""A head that lies alone in a file, such as `bottleneck_fc_model.h5`, behind the convolutions that it was trained on.

Together they are a file like any other: VGG's layers, and the head's behind them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from weights_convert import keras_config
from weights_convert.rules import DIALECTS
from weights_convert.tensor import Source, Tensor, refuse

if TYPE_CHECKING:
    from weights_convert.types import Weights


def join(head: Source, under: Weights) -> Source:
    """Both as one source, whose convolutions are in the colour order of the head's own framework.

    Raises:
      WeightFileError: the file has convolutions itself.
    """
    if any(tensor.shape[:2] == (3, 3) or tensor.shape[2:] == (3, 3) for tensor in head.tensors):
        refuse(head.path, "has convolutions itself. Expected a head alone with --backbone.")
    torch, bgr = head.dialects[0] in ("torchvision", "timm"), DIALECTS[head.dialects[0]].bgr
    tensors = []
    for i, (layer, params) in enumerate(under.backbone.items()):
        for number, part in enumerate(("kernel", "bias")):
            array = params[part][:, :, ::-1] if bgr and not i + number else params[part]
            array = array.transpose(3, 2, 0, 1) if torch and not number else array
            key = f"conv2d_{i}/{number}".replace("_0/", "/") if head.whole else f"{layer}/{number}"
            tensors.append(Tensor(f"{layer}/{part}, not in the file", key, array.shape, "float32", _loader(array)))
    facts = {key: json.dumps(getattr(under.preprocessing, key)) for key in ("mean", "std")}
    facts["first"] = next(iter(under.backbone))
    kept, config = head.tensors, facts
    if head.whole:
        config = {"class_name": "Sequential", "config": [*_before(head, under), head.config], **facts}
        place = head.config["class_name"].lower()  # where a model in a model has its layers
        kept = tuple(dataclasses.replace(tensor, key=f"{place}/{tensor.key}") for tensor in kept)
    form = f"{head.format}; convolutions: {under.source}"
    return dataclasses.replace(head, format=form, tensors=(*tensors, *kept), config=config)


def _loader(array: np.ndarray) -> Any:
    return lambda: array


def _before(head: Source, under: Weights) -> list[dict[str, Any]]:
    """VGG's layers in Keras's terms, and how its maps become what the head declares as its input."""
    depths = [int(name[5]) for name in under.backbone]
    channels = next(reversed(under.backbone.values()))["bias"].size
    layers, k = [], 0
    for block in sorted(set(depths)):
        for _ in range(depths.count(block)):
            layers.append(_layer("Conv2D", f"conv2d_{k}" if k else "conv2d", padding="same", activation="relu"))
            k += 1
        layers.append(_layer("MaxPooling2D", f"block{block}_pool"))
    shape = keras_config.read(head.path, head.config).input_shape or []
    flat = len(shape) == 2 and type(shape[1]) is int and shape[1] % channels == 0
    side = math.isqrt(shape[1] // channels) if flat else next(iter(shape[1:2]), None)
    if flat:
        layers.append(_layer("GlobalAveragePooling2D" if side == 1 else "Flatten", "features"))
    if type(side) is int and (side > 1 or not flat):
        layers.insert(0, _layer("InputLayer", "images", batch_shape=[None, 32 * side, 32 * side, 3]))
    return layers


def _layer(kind: str, name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": kind, "config": {"name": name, **config}}
