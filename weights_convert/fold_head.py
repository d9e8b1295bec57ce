"""The head of a person's own Keras or ONNX model -> our dense layers, with everything else folded into them.

Dropout and augmentation do nothing when a model is used. A batch norm is a factor and a summand for each feature, and
goes into the dense layer beside it. One sigmoid is the same as a softmax over (0, z). What can't be carried over
exactly is refused by name.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from vgg_flax.network.params import Params
from vgg_flax.network.spec import HeadSpec, Pool
from weights_convert import backbone, keras_config, variables
from weights_convert.keras_config import ADAPTIVE, Layer
from weights_convert.mapping import adaptive
from weights_convert.pixels import CONSTANT, Inside, affine, inside, moments
from weights_convert.tensor import ALONE, MAX_TENSOR_BYTES, Source, printable, refuse

if TYPE_CHECKING:
    from vgg_flax.data.dataset import Dataset

POOLS: dict[str, Pool] = {"Flatten": "flatten", "GlobalAveragePooling2D": "average", "GlobalMaxPooling2D": "maximum"}


@dataclasses.dataclass(frozen=True)
class Head:
    """A head in our terms.

    Attributes:
      spec: what it reads of block 5, and its layers.
      params: {"fc1": {"kernel", "bias"}, ..., "predictions": ...}, and {"standardize": {"mean", "std"}}.
      image_size: side of the pictures it was trained on, if the file says so.
      inside: what the model does to a picture before its first convolution.
      reads: shape in the file of the first dense kernel, if it reads the features as they are.
      pool: sides of block 5's map and of what average pools made of it, where they are in the first dense kernel.
    """

    spec: HeadSpec
    params: Params
    image_size: int | None
    inside: Inside
    reads: tuple[int, int] | None = None
    pool: tuple[int, int] | None = None

    @property
    def inputs(self) -> int:
        """Number of features that it reads."""
        return self.params["fc1" if self.spec.hidden else "predictions"]["kernel"].shape[0]


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a person says about a model, where its file can't, as `import`'s options of the same names."""

    classes: str | None = None
    preprocess: str | None = None
    data: Dataset | None = None
    image_size: int | None = None
    logit: bool = False
    head_activations: str | None = None


def read_head(source: Source, said: Settings | None = None) -> Head:
    """The head of a plan's source, whose layers are in Keras's terms.

    Args:
      said: with `preprocess`, a Lambda layer before the convolutions is what the person says.

    Raises:
      WeightFileError: no dense layers, or a layer that our heads don't have.
    """
    graph = keras_config.read(source.path, source.config)
    found = backbone.find(graph)
    if not found.pooled:
        refuse(source.path, f"has a head that reads no MaxPooling2D, as heads of ours do. {ALONE}")
    said = said or Settings()
    before = inside(source, graph, found.first, said.preprocess is not None)
    size = before.resized[0] if before.resized else graph.image_size
    builder = _Builder(source, (said.image_size or size or 0) // 32)
    for layer in _stated(source, graph.behind(found.last), said.head_activations):
        try:
            builder.add(layer)
        except ValueError:
            refuse(source.path, f"{layer.title} has shapes that do not fit what is before it.")
    return builder.finish(size, before, said.logit)


def _stated(source: Source, layers: list[Layer], text: str | None) -> list[Layer]:
    """The layers, with what the person says of those that the file can't hold: an activation a place, or none."""
    places = [layer for layer in layers if layer.kind == "Unstated"]
    names = [name.strip().lower() for name in text.split(",")] if text else []
    pools = {"average": "GlobalAveragePooling2D", "maximum": "GlobalMaxPooling2D"}
    if names[:1] and names[0] in pools and layers[0].kind in pools.values():
        layers = [dataclasses.replace(layers[0], kind=pools[names.pop(0)]), *layers[1:]]
    if names and not places:
        refuse(source.path, f"leaves no activation open. Leave out --head-activations {printable(text)}")
    names *= len(places) if len(names) == 1 else 1
    if len(names) != len(places) or not set(names) <= {"relu", "none"}:
        between = "; ".join(printable(layer.config["between"]) for layer in places)
        example = ",".join(["relu"] * len(places))
        what = f"does not say what lies between {between}"
        refuse(source.path, f"{what}. Say so with --head-activations {example}, or none where there is none.")
    given = iter(names)
    kinds = {layer.name: {"name": layer.name, "activation": next(given).replace("none", "linear")} for layer in places}
    return [Layer("Activation", one.name, kinds[one.name]) if one.name in kinds else one for one in layers]


class _Builder:
    """Takes the head's layers one by one; a factor and a summand wait for the next dense layer.

    Args:
      side: of block 5's map, 0 if unknown.
    """

    def __init__(self, source: Source, side: int):
        self.source, self.side = source, side
        self.pool: Pool | None = None
        self.dense: list[tuple[np.ndarray, np.ndarray]] = []
        self.activation: str | None = None  # of the last dense layer; None while it has had none
        self.step = ALONE  # what a person does where that is the wrong one
        self.scale: np.ndarray | None = None
        self.shift: np.ndarray | None = None
        self.standardize: tuple[np.ndarray, np.ndarray] | None = None
        self.reads: tuple[int, int] | None = None
        self.pooled = 0  # side of the map behind average pools of parts of it

    def add(self, layer: Layer) -> None:
        """Take one layer."""
        if layer.idle:
            return
        pool = self._pool(layer)
        if pool and not self.dense and (pool == "flatten" or self.pool is None):
            self.pool = self.pool or pool
            if self.pool == "maximum" and self.scale is not None and self.scale.min() < 0:
                self._unknown(layer)  # the largest would become the least
        elif not (self.pool or self.pooled) and (places := self._places(layer)):
            self.pooled = places
        elif layer.kind == "Dense" and self.pool:
            self._dense(layer)
            self._activate(layer.config.get("activation"), layer)
        elif layer.kind == "spare layer":
            what = f"{printable(layer.name)} may lie between the other dense layers, or belong to another head"
            chain = "one chain of dense layers and batch norms, in order, or, for Keras, --architecture FILE.json"
            refuse(self.source.path, f"{what}. Expected {chain}.")
        elif layer.kind == "Normalization":
            self._normalize(*moments(self.source, layer))
        elif layer.kind == "BatchNormalization":
            self._then(*variables.norm(self.source, layer))
        elif layer.kind in CONSTANT:
            scale, offset = affine(self.source, layer)
            self._then(scale.astype(np.float64), offset.astype(np.float64))
        elif layer.kind in ("Activation", "ReLU", "Softmax"):
            if layer.kind == "ReLU" and not backbone.is_relu(layer):
                self._unknown(layer)
            named = {"ReLU": "relu", "Softmax": "softmax"}.get(layer.kind) or layer.config.get("activation")
            self._activate(named, layer)
        elif not (self.pool and layer.kind in ("Reshape", "Squeeze", "squeeze", "reshape")):  # one value a feature
            self._unknown(layer)

    def _pool(self, layer: Layer) -> Pool | None:
        """How a layer reads the whole map: a pool as large as it is, or a Reshape to one row, are two more ways."""
        config = layer.config
        if layer.kind in ("AveragePooling2D", "MaxPooling2D"):
            whole = self.side and config.get("pool_size") in ([self.side, self.side], self.side)
            return POOLS[f"Global{layer.kind}"] if whole else None
        if layer.kind == "Reshape" and not self.pool and len(config.get("target_shape", ())) == 1:
            return "flatten"
        return POOLS.get(layer.kind)

    def _places(self, layer: Layer) -> int:
        """Side of what an average pool of parts of the map gives; 0 for any other layer."""
        config = layer.config
        if layer.kind == ADAPTIVE:
            return config["output_size"]
        size, steps = (config.get(key) for key in ("pool_size", "strides"))
        plain = layer.kind == "AveragePooling2D" and config.get("padding", "valid") == "valid"
        fits = (n for n in range(1, self.side) if self.side % n == 0 and size in (n, [n, n]) and steps in (None, size))
        return self.side // next(fits, self.side + 1) if plain else 0

    def _unknown(self, layer: Layer) -> NoReturn:
        known = "Flatten, GlobalAveragePooling2D, GlobalMaxPooling2D, Dense, Dropout, BatchNormalization and Activation"
        refuse(self.source.path, f"{layer.title} can't be carried over. Expected {known}. {ALONE}")

    def _dense(self, layer: Layer) -> None:
        kernel, bias = (variables.read(self.source, layer, part) for part in ("kernel", "bias"))
        assert kernel is not None
        bias = np.zeros(kernel.shape[-1], np.float32) if bias is None else bias
        if kernel.ndim != 2 or bias.shape != kernel.shape[1:]:
            refuse(self.source.path, f"layer {printable(layer.name)} has the shapes {kernel.shape} and {bias.shape}.")
        if self.dense and kernel.shape[0] != self.dense[-1][1].size:
            refuse(self.source.path, f"layer {printable(layer.name)} reads {kernel.shape[0]} features.")
        if not self.dense and self.scale is None and self.standardize is None:
            self.reads = kernel.shape
        if self.standardize and not self.dense:
            if self.standardize[0].size not in (1, len(kernel)) or self.standardize[1].size not in (1, len(kernel)):
                refuse(self.source.path, f"the Normalization before {printable(layer.name)} does not fit its features.")
            mean, deviation = (np.broadcast_to(array, len(kernel)).copy() for array in self.standardize)
            self.standardize = mean, deviation
        if self.scale is not None and self.shift is not None:
            repeat = kernel.shape[0] // self.scale.size  # Flatten repeats the channels for every place
            scale, shift = np.tile(self.scale, repeat), np.tile(self.shift, repeat)
            if scale.size != kernel.shape[0]:
                refuse(self.source.path, f"the batch norm before {printable(layer.name)} has {scale.size} features.")
            bias = (bias + shift @ kernel.astype(np.float64)).astype(np.float32)
            kernel = (kernel * scale[:, None]).astype(np.float32)
            self.scale = self.shift = None
        if self.pooled not in (0, self.side) and not self.dense:
            kernel = self._unpooled(kernel)
        if self.dense and self.activation is None:  # two dense layers with nothing between are one
            first, plus = self.dense.pop()
            if len(first) * kernel.shape[1] * 8 > MAX_TENSOR_BYTES:
                refuse(
                    self.source.path, f"layer {printable(layer.name)} without a ReLU before it is too large to fold."
                )
            bias = (plus.astype(np.float64) @ kernel + bias).astype(np.float32)
            kernel = (first.astype(np.float64) @ kernel).astype(np.float32)
        elif self.dense and self.activation != "relu":
            refuse(self.source.path, f"{self.activation} before {printable(layer.name)}, not ReLU. {ALONE}")
        self.dense.append((kernel, bias))
        self.activation = None

    def _unpooled(self, kernel: np.ndarray) -> np.ndarray:
        """[pooled * pooled * channels, n], what reads a pooled map -> what reads the map itself."""
        if kernel.size // self.pooled**2 * self.side**2 * 4 > MAX_TENSOR_BYTES:
            refuse(self.source.path, f"reads a map of {self.side}x{self.side} places, too large to fold its pool.")
        rows = adaptive(self.side, self.pooled).astype(np.float32)
        places = kernel.reshape(self.pooled, self.pooled, -1, kernel.shape[1])
        return np.einsum("ih,jw,ijcn->hwcn", rows, rows, places, optimize=True).reshape(-1, kernel.shape[1])

    def _activate(self, name: Any, layer: Layer) -> None:
        if isinstance(name, dict):  # Keras 3 writes some activations as objects
            name = name.get("config")
        plain = self.scale is None and (self.dense or self.standardize is None)
        if (
            name is None
            or name == "linear"
            or (name == "relu" and plain and self.activation == ("relu" if self.dense else None))
        ):
            return  # what is positive already stays, as block 5's maps are
        name = "softmax" if name == "log_softmax" else name
        known = self.dense and self.scale is None and name in ("relu", "softmax", "sigmoid")
        if self.activation is not None or not known:
            what = f"activation {printable(name)} of {printable(layer.name)}"
            known = "relu, and softmax or sigmoid at the end"
            refuse(self.source.path, f"{what} can't be carried over. Expected {known}. {ALONE}")
        self.activation = name
        if layer.kind in ("Dense", "Activation") and "/" not in layer.place and "keras" in self.source.dialects:
            retyped = f"m.layers[-1].activation = keras.activations.{'softmax' if name == 'sigmoid' else 'sigmoid'}"
            self.step = f"To change it in Keras, loaded as m: {retyped}; m.save('fixed.keras')"

    def _normalize(self, mean: np.ndarray, deviation: np.ndarray) -> None:
        """A Normalization: of the features as they are, it is what our heads call `standardize`."""
        if self.pool and not self.dense and self.scale is None and self.standardize is None:
            self.standardize = mean.astype(np.float32), deviation.astype(np.float32)
        else:
            self._then(1 / deviation, -mean / deviation)

    def _then(self, scale: np.ndarray, shift: np.ndarray) -> None:
        """The features are multiplied by `scale`, and `shift` is added."""
        if self.dense and self.activation is None:  # between a dense layer and its activation
            kernel, bias = self.dense[-1]
            self.dense[-1] = ((kernel * scale).astype(np.float32), (bias * scale + shift).astype(np.float32))
            return
        parts = [part for part in (scale, shift, self.scale, self.shift) if part is not None]
        size = max(part.size for part in parts)
        if any(part.size == 0 or size % part.size for part in parts):
            sizes = ", ".join(str(part.size) for part in parts)
            refuse(self.source.path, f"normalises the same features with vectors of {sizes} values.")
        by, plus, *before = (np.resize(part, size) for part in parts)  # Flatten repeats the channels for every place
        self.scale, self.shift = (before[0] * by, before[1] * by + plus) if before else (by, plus)

    def finish(self, image_size: int | None, inside: Inside, logit: bool) -> Head:
        """The head."""
        path = self.source.path
        if not self.dense or self.pool is None:
            refuse(path, f"has no dense layers behind its backbone. {ALONE}")
        if self.scale is not None:
            refuse(path, f"ends in a batch norm, which can't be carried over. {ALONE}")
        kernel, bias = self.dense[-1]
        if logit and (bias.size > 1 or self.activation):
            refuse(path, f"ends in {self.activation or 'no activation'} over {bias.size}, no logit. Leave out --logit")
        if bias.size > 1 and self.activation not in ("softmax", None):
            several = f"ends in {self.activation} over {bias.size} classes"
            refuse(path, f"{several}. Expected softmax, one a photo. {self.step}")
        if bias.size == 1:  # a sigmoid of z is a softmax over (0, z)
            if self.activation not in ("sigmoid", None):
                always = ", which is always 1" * (self.activation == "softmax")
                what = f"ends in {self.activation} over one output{always}. Expected a sigmoid: train again with it"
                refuse(path, f"{what}. {self.step}")
            if self.activation is None and not logit:
                refuse(
                    path,
                    "ends in one output without a sigmoid: the logit of a class, as from_logits=True has it, or a "
                    f"number such as an age. If it is a logit: --logit. A regression is not carried over. {ALONE}",
                )
            kernel = np.concatenate([np.zeros_like(kernel), kernel], 1)
            bias = np.concatenate([np.zeros_like(bias), bias])
            self.dense[-1] = (kernel, bias)
        names = [*(f"fc{i}" for i in range(1, len(self.dense))), "predictions"]
        params = {name: {"kernel": k, "bias": b} for name, (k, b) in zip(names, self.dense, strict=True)}
        if self.standardize:
            params["standardize"] = dict(zip(("mean", "std"), self.standardize, strict=True))
        hidden = tuple(b.size for _, b in self.dense[:-1])
        standardize = self.standardize is not None
        spec = HeadSpec(self.dense[-1][1].size, (5,), (self.pool,), hidden, standardize=standardize)
        pool = (self.side, self.pooled) if self.pooled not in (0, self.side) else None
        return Head(spec, params, 32 * self.side if pool else image_size, inside, self.reads, pool)
