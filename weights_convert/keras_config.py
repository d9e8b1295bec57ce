"""The architecture that Keras writes beside its weights, as a graph of layers. JSON in, nothing is built.

Source: `get_config` of Sequential and Functional models, of Keras 1 to 3; operations on tensors are TFOpLambda and
SlicingOpLambda in Keras 2, and layers such as GetItem in Keras 3.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from pathlib import Path
from typing import Any

from weights_convert.tensor import ALONE, printable, refuse

MODELS = {"Sequential", "Functional", "Model"}
CONVS = ("Conv2D", "Convolution2D")
ADAPTIVE = "AdaptiveAveragePooling2D"  # torch's, of which Keras has no layer
MAX_LAYERS, MAX_DEPTH = 1000, 8
# Layers that do nothing when a model is used.
IDLE = {"InputLayer", "Dropout", "SpatialDropout2D", "AlphaDropout", "GaussianDropout", "GaussianNoise", "Identity"}
IDLE |= {"ActivityRegularization"}


@dataclasses.dataclass(frozen=True)
class Ref:
    """One output of a layer, which is known by its place in `Graph.layers`."""

    layer: int
    output: int = 0


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
      kind: Keras's class name, such as `Dense`; of an operation on tensors, its function's name.
      name: its name; the weights lie under it.
      config: its own settings.
      args, options: of its call: a `Ref` for what it reads, and constants.
      place: folder of its weights in an archive that numbers layers by class, `functional/conv2d_1`.
    """

    kind: str
    name: str
    config: dict[str, Any]
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    place: str = ""

    @property
    def reads(self) -> list[Ref]:
        """Everything that it reads."""
        return refs([self.args, self.options])

    @property
    def idle(self) -> bool:
        """It does nothing when the model is used, as augmentation, or nothing but round, as mixed precision."""
        to = (self.config | self.options).get("dtype")
        cast = self.kind in ("Cast", "cast") and "float" in str(to)
        return cast or self.kind in IDLE or (self.kind.startswith("Random") and self.kind != "RandomCrop")

    @property
    def title(self) -> str:
        """For messages."""
        return f"{printable(self.kind)} {printable(self.name)}"


@dataclasses.dataclass(frozen=True)
class Graph:
    """The layers, each after those that it reads, models inside models laid out flat.

    Attributes:
      outputs: what the model gives.
    """

    path: Path
    layers: list[Layer]
    outputs: list[Ref]

    def readers(self, i: int) -> list[int]:
        """The layers that read layer i."""
        return [k for k, layer in enumerate(self.layers) if any(ref.layer == i for ref in layer.reads)]

    def behind(self, i: int) -> list[Layer]:
        """The chain from layer i to the output. Raises WeightFileError where it has branches."""
        found: list[Layer] = []
        if (several := len({ref.layer for ref in self.outputs})) > 1:
            one = "In Keras, loaded as m: keras.Model(m.inputs, m.outputs[0]).save('one.keras')"
            refuse(self.path, f"has {several} outputs. Expected one. {one}")
        end = self.outputs[0].layer
        while end > i:
            layer = self.layers[end]
            before = {ref.layer for ref in layer.reads}
            if len(before) != 1:
                reads = ", ".join(printable(self.layers[k].name) for k in sorted(before)) or "nothing"
                refuse(self.path, f"{layer.title} reads {reads}. Expected a chain without branches. {ALONE}")
            found.append(layer)
            end = before.pop()
        if end != i:
            refuse(self.path, f"has a branch. Expected a chain of layers, as VGG is. {ALONE}")
        return found[::-1]

    @property
    def input_shape(self) -> Any:
        """What the model says that it takes, [None, height, width, 3] of pictures, if it says so."""
        shapes = (layer.config.get("batch_shape") or layer.config.get("batch_input_shape") for layer in self.layers)
        found = next(filter(None, shapes), None)
        return found if isinstance(found, list) else None

    @property
    def image_size(self) -> int | None:
        """Side of the square pictures that the model says it takes, if it says so."""
        shape = self.input_shape
        square = shape and len(shape) == 4 and isinstance(shape[1], int) and shape[1] == shape[2]
        return shape[1] if square else None


def read(path: Path, config: Any) -> Graph:
    """The graph of a model's configuration.

    Raises:
      WeightFileError: no architecture of Keras.
    """
    walk = _Walk(path)
    try:
        outputs = walk.model(config, None, "", 0)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError):
        refuse(path, "has an architecture that is not Keras's Sequential or Functional.")
    return Graph(path, walk.layers, outputs)


def refs(value: Any) -> list[Ref]:
    """Every `Ref` in nested lists and dicts."""
    found, stack = [], [value]
    while stack:
        node = stack.pop()
        if isinstance(node, Ref):
            found.append(node)
        elif isinstance(node, (list, tuple)):
            stack += reversed(node)
        elif isinstance(node, dict):
            stack += reversed(list(node.values()))
    return found


class _Walk:
    """Lays models inside models out flat."""

    def __init__(self, path: Path):
        self.path = path
        self.layers: list[Layer] = []

    def model(self, config: Any, source: Ref | None, place: str, depth: int) -> list[Ref]:
        """Append a model's layers; what it gives.

        Args:
          source: what the model reads, where it lies in another one.
        """
        kind = config["class_name"]
        if kind not in MODELS or depth > MAX_DEPTH:
            refuse(self.path, f"is a {printable(kind)} model. Expected Keras's Sequential or Functional.")
        inner = config["config"]
        entries = inner if isinstance(inner, list) else inner["layers"]  # Keras 1 wrote a bare list
        if len(entries) + len(self.layers) > MAX_LAYERS:
            refuse(self.path, f"has {len(entries):,} layers. Expected a VGG and its head.")
        known: dict[str, Ref] = {}
        counts: collections.Counter[str] = collections.Counter()
        last = source
        for entry in entries:
            kind, own = str(entry["class_name"]), entry["config"]
            settings: Any = {} if isinstance(own, list) and kind in MODELS else own
            name = str(settings.get("name") or entry.get("name"))
            folder = _snake_case(kind)
            here = f"{place}{folder}_{counts[folder]}" if counts[folder] else f"{place}{folder}"
            counts[folder] += 1
            if config["class_name"] == "Sequential":
                if last is None and kind not in MODELS | {"InputLayer"}:  # Keras before 2.4 writes none
                    self.layers.append(Layer("InputLayer", "", {"batch_shape": settings.get("batch_input_shape")}))
                    last = Ref(len(self.layers) - 1)
                args, options = (last,) if last else (), {}
            else:
                args, options = _call(entry.get("inbound_nodes", []), known)
            if kind in MODELS:
                last = self.model(entry, next(iter(refs([args, options])), None), f"{here}/", depth + 1)[0]
            elif kind == "InputLayer" and source:
                last = source
            else:
                function = settings.get("function") if kind in ("TFOpLambda", "SlicingOpLambda") else None
                kind = str(function).rpartition(".")[2] if function else kind
                self.layers.append(Layer(kind, name, settings, args, options, here))
                last = Ref(len(self.layers) - 1)
            known[name] = last
        if last is None:
            raise ValueError
        given = _value(inner["output_layers"], known) if isinstance(inner, dict) and "output_layers" in inner else last
        return refs([given]) or [last]


def _call(nodes: Any, known: dict[str, Ref]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(arguments, options) of a layer's first use; a nested model is also listed by its maker."""
    if not nodes:
        return (), {}
    node = nodes[0]
    if isinstance(node, dict):  # Keras 3
        return tuple(_value(node["args"], known)), dict(_value(node["kwargs"], known) or {})
    calls = [node] if isinstance(node[0], str) else node
    options = next((call[3] for call in calls if len(call) > 3), {})
    return tuple(_value(call[:3], known) for call in calls), dict(_value(options, known) or {})


def _value(node: Any, known: dict[str, Ref]) -> Any:
    """JSON -> constants, slices and `Ref`s."""
    if isinstance(node, list):
        if len(node) == 3 and isinstance(node[0], str) and type(node[1]) is int:
            return node[2] if node[0] == "_CONSTANT_VALUE" else Ref(known[node[0]].layer, node[2])
        return [_value(one, known) for one in node]
    if not isinstance(node, dict):
        return node
    config = node.get("config", {})
    kind = node.get("class_name")
    if kind == "__keras_tensor__":
        return _value(config["keras_history"], known)
    if kind in ("__tensor__", "__numpy__"):
        return config["value"]
    if kind == "__ellipsis__":
        return ...
    if kind == "__slice__" or node.keys() == {"start", "stop", "step"}:
        return slice(*(_value((config or node)[key], known) for key in ("start", "stop", "step")))
    return {key: _value(value, known) for key, value in node.items()}


def _snake_case(name: str) -> str:
    """As Keras names the folders of layers without a name: `BatchNormalization` -> `batch_normalization`."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
