"""A head that lies alone in a file, such as `bottleneck_fc_model.h5`, behind the convolutions that it was trained on.

Together they are a file like any other: VGG's layers, and the head's behind them.
"""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

from weights_convert import keras_config
from weights_convert.assemble import assemble
from weights_convert.keras_config import Graph
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
    convs = []
    for layer, params in under.backbone.items():
        kernel = params["kernel"][:, :, ::-1] if bgr and layer == "block1_conv1" else params["kernel"]
        for part, array in (("kernel", kernel.transpose(3, 2, 0, 1) if torch else kernel), ("bias", params["bias"])):
            convs.append(
                Tensor(f"{layer}/{part}, not in the file", f"{layer}/{part}", array.shape, "float32", array.copy)
            )
    facts = {key: json.dumps(getattr(under.preprocessing, key)) for key in ("mean", "std")}
    form = f"{head.format}; convolutions: {under.source}"
    if not head.whole:
        return dataclasses.replace(head, format=form, tensors=(*convs, *head.tensors), config=facts)
    graph = keras_config.read(head.path, head.config)
    vgg = assemble(dataclasses.replace(head, tensors=tuple(convs), config=facts))
    layers = [*vgg.config["config"], *_between(graph.input_shape or [], convs[-1].shape[0]), head.config]
    layers.sort(key=lambda layer: layer["class_name"] != "InputLayer")
    own = (_named(graph, tensor) for tensor in head.tensors) if head.by_place else head.tensors
    return dataclasses.replace(vgg, format=form, tensors=(*vgg.tensors, *own), config=vgg.config | {"config": layers})


def _named(graph: Graph, tensor: Tensor) -> Tensor:
    """The tensor by the name of its layer instead of its place."""
    place, _, index = tensor.key.rpartition("/")
    name = next((layer.name for layer in graph.layers if layer.place == place), place)
    return dataclasses.replace(tensor, key=f"{name}/{index}")


def _between(shape: list[Any], channels: int) -> list[dict[str, Any]]:
    """The input's size, and how maps become the rows, averages or maps that a head declares as its input."""
    flat = len(shape) == 2 and type(shape[1]) is int and shape[1] % channels == 0
    side = math.isqrt(shape[1] // channels) if flat else next(iter(shape[1:2]), None)
    kind = "GlobalAveragePooling2D" if side == 1 else "Flatten"
    size = {"name": "images", "batch_shape": [None, 32 * side, 32 * side, 3]} if type(side) is int else {}
    layers = [{"class_name": "InputLayer", "config": size}] if size and (side != 1 or not flat) else []
    return [*layers, {"class_name": kind, "config": {"name": "features"}}] if flat else layers
