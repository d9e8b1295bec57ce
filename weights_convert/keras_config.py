"""The architecture that Keras writes beside its weights, as a plain chain of layers. JSON in, nothing is built.

Source: `get_config` of Sequential and Functional models, of Keras 1 to 3.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from weights_convert.tensor import printable, refuse

MODELS = {"Sequential", "Functional", "Model"}
MAX_LAYERS = 1000
# Layers that do nothing when a model is used.
IDLE = {"InputLayer", "Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise"}
IDLE |= {"ActivityRegularization", "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation"}
IDLE |= {"RandomContrast", "RandomBrightness"}


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
      kind: Keras's class name, such as `Dense`.
      name: its name; the weights lie under it.
      config: its own settings.
    """

    kind: str
    name: str
    config: dict[str, Any]


def chain(path: Path, config: Any) -> list[Layer]:
    """The layers in the order in which a picture passes them, models inside models laid out flat.

    Raises:
      WeightFileError: no chain (branches, several inputs), or no architecture at all.
    """
    layers: list[Layer] = []
    try:
        _append(path, config, layers, 0)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        refuse(path, "has an architecture that is not Keras's Sequential or Functional.")
    return layers


def _append(path: Path, config: Any, layers: list[Layer], depth: int) -> None:
    kind = config["class_name"]
    if kind not in MODELS or depth > 8:
        refuse(path, f"is a {printable(kind)} model. Expected Keras's Sequential or Functional.")
    inner = config["config"]
    entries = inner if isinstance(inner, list) else inner["layers"]  # Keras 1 wrote a bare list
    if len(entries) > MAX_LAYERS:
        refuse(path, f"has {len(entries):,} layers. Expected a VGG and its head.")
    if kind != "Sequential":
        _check_chain(path, entries)
    for entry in entries:
        if entry["class_name"] in MODELS:
            _append(path, entry, layers, depth + 1)
        else:
            name = entry["config"].get("name") or entry.get("name")
            layers.append(Layer(str(entry["class_name"]), str(name), entry["config"]))


def _check_chain(path: Path, entries: list[dict[str, Any]]) -> None:
    """Each layer of a functional model must read the one before it, and nothing else."""
    before = None
    for entry in entries:
        name = entry.get("name") or entry["config"]["name"]
        sources = set(_sources(entry.get("inbound_nodes", [])))
        if sources != ({before} if before else set()):
            reads = ", ".join(sorted(map(printable, sources))) or "nothing"
            refuse(path, f"layer {printable(name)} reads {reads}. Expected a chain without branches, as VGG is.")
        before = name


def _sources(nodes: Any) -> list[str]:
    """Names of the layers that feed a layer; its first use only, as a nested model is also listed by its maker."""
    found: list[str] = []
    stack = list(nodes[:1])
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            history = node.get("config", {}).get("keras_history") if node.get("class_name") else None
            if history:
                found.append(str(history[0]))
            else:
                stack += list(node.values())
        elif isinstance(node, list):
            if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
                found.append(node[0])
            else:
                stack += node
    return found


def declared_size(layers: list[Layer]) -> int | None:
    """Side of the square pictures that the model says it takes, if it says so."""
    shape = next((s for s in (_shape(layer.config) for layer in layers) if s), None)
    if shape and len(shape) == 4 and isinstance(shape[1], int) and shape[1] == shape[2]:
        return shape[1]
    return None


def _shape(config: dict[str, Any]) -> Any:
    return config.get("batch_shape") or config.get("batch_input_shape")
