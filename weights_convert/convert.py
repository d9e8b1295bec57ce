"""An open weight file -> our parameters, strictly: every tensor used or named, every target filled once."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vgg_flax.network.params import Params, unflatten
from vgg_flax.network.spec import Preprocessing
from weights_convert import backbone, evidence, keras_config
from weights_convert.assemble import assemble
from weights_convert.backbone import FIRST
from weights_convert.mapping import Move, check_shapes
from weights_convert.rules import DEPTHS, DIALECTS, Dialect, conv_names
from weights_convert.tensor import Source, printable, refuse

if TYPE_CHECKING:
    from vgg_flax.network.spec import BackboneSpec
    from weights_convert.recipes import Recipe

HEAD, NAN = "a head of its own", "NaN, as torchvision's FEATURES have it"
WIDEST = 4096  # of the biases that are looked at: those of fc1 and fc2
Statistics = tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What an import will do.

    Attributes:
      model: `vgg16` or `vgg19`.
      moves: {parameter's path: move}, in the order of the layers.
      left_out: (tensor, reason) for everything else in the file.
      why: why this dialect, as a line for people.
      mean, std: RGB, in units of 0..255, of the input that the backbone expects.
      source: the file with an architecture, its own or one that was put together.
    """

    path: Path
    format: str
    dialect: str
    model: str
    moves: dict[str, Move]
    left_out: tuple[tuple[str, str], ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    why: str
    source: Source

    @property
    def bgr(self) -> bool:
        """The first kernel in the file expects BGR."""
        return self.moves[FIRST].flip

    def prepared(self, how: Recipe) -> Plan:
        """The same with another recipe."""
        moves = self.moves | {FIRST: dataclasses.replace(self.moves[FIRST], flip=how.bgr)}
        return dataclasses.replace(self, moves=moves, mean=how.preprocessing.mean, std=how.preprocessing.std)

    @property
    def dense(self) -> tuple[str, ...]:
        """Names of the dense layers behind the backbone; none of a head of NaN."""
        hollow = any(reason == NAN for _, reason in self.left_out)
        layers = [] if hollow else keras_config.read(self.path, self.source.config).layers
        return tuple(layer.name for layer in layers if layer.kind == "Dense")

    @property
    def preprocessing(self) -> Preprocessing:
        """Of the backbone's input, which may have any size."""
        return Preprocessing(224, self.mean, self.std)

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Output channels of every convolution, block by block."""
        depths = DEPTHS[self.model]
        widths = iter(self.moves[f"backbone/{name}/bias"].shape[0] for name in conv_names(depths))
        return tuple(tuple(next(widths) for _ in range(depth)) for depth in depths)

    def read(self) -> Params:
        """The backbone, {layer: {"kernel": [3, 3, in, out], "bias": [out]}}, float32."""
        return unflatten({target: move.read() for target, move in self.moves.items()})["backbone"]


def plan(source: Source, spec: BackboneSpec | None = None, dialect: str = "auto") -> Plan:
    """Find what every tensor is; values are read of the first convolution and of a head's biases alone.

    Args:
      spec: the backbone that is expected; without it any full-size VGG16 or VGG19 is accepted.
      dialect: key of `rules.DIALECTS`, or `auto`: the one of the file's format whose names fit.

    Raises:
      WeightFileError: no VGG, another VGG than expected, a dialect of another format, a tensor missing, or of a wrong
        shape.
    """
    whole = source if source.whole else assemble(source)
    graph = keras_config.read(source.path, whole.config)
    found = backbone.find(graph)
    name, why = _dialect(source, whole.config.get("first") or found.convs[0][0].name, dialect)
    table = DIALECTS[name]
    moves = backbone.moves(whole, found, table.bgr)
    model = next(key for key, depths in DEPTHS.items() if depths == found.blocks)
    check_shapes(source, moves, model, spec)
    mean, std = _statistics(source, table)
    how = "its layers" if source.whole else "shapes and order"
    why = f"dialect {name}: {2 * len(found.convs)} backbone tensors by {how}; {why}"
    result = Plan(source.path, source.format, name, model, moves, _rest(whole, moves), mean, std, why, whole)
    return result if name.endswith("vgg_flax") else _weigh(result, told=dialect != "auto")


def _weigh(plan: Plan, *, told: bool) -> Plan:
    """The same with what the values of the first convolution say."""
    first = dataclasses.replace(plan.moves[FIRST], flip=False)
    bias = plan.moves[FIRST.replace("kernel", "bias")]
    known = None if bias.norm or told else evidence.origin(first.read(), bias.read())
    if known:
        name, bgr, (mean, std) = known
        order = "BGR" if bgr else "RGB"
        moves = plan.moves | {FIRST: dataclasses.replace(plan.moves[FIRST], flip=bgr)}
        why = f"{plan.why}; the first kernel is of {name}, in {order}, so its statistics are taken"
        plan = dataclasses.replace(plan, moves=moves, mean=mean, std=std, why=why)
    elif plan.dialect in ("torchvision", "vggface") and not told:
        why = f"{plan.why}; its first kernel is of no known weights: {plan.dialect}'s statistics, or say --preprocess"
        plan = dataclasses.replace(plan, why=why)
    return plan


def _dialect(source: Source, first: str, dialect: str) -> tuple[str, str]:
    """(the dialect, why), by the name of the first convolution."""
    family = source.dialects + tuple(key for key in DIALECTS if key[:4] == source.dialects[0][:4] == "onnx")
    if dialect != "auto":
        if dialect not in family:
            these = " or ".join(dict.fromkeys(family))
            refuse(source.path, f"is {source.format}, not of {dialect}. Expected --dialect {these}, or none.")
        return dialect, "chosen by --dialect"
    if len(source.dialects) == 1:
        return source.dialects[0], f"the only one for {source.format}"
    named = (key for key in source.dialects if DIALECTS[key].names and re.search(DIALECTS[key].names, first))
    return next(named, source.dialects[0]), f"the first is called {printable(first)}"


def _statistics(source: Source, table: Dialect) -> tuple[Statistics, Statistics]:
    """Mean and standard deviation: the file's own metadata, if it has any, or the dialect's."""
    own = source.config if isinstance(source.config, dict) else {}
    try:
        mean, std = (tuple(json.loads(own[key])) for key in ("mean", "std"))
        record = Preprocessing(224, mean, std)
    except (KeyError, ValueError, TypeError):
        return table.mean, table.std
    return record.mean, record.std


def _rest(source: Source, moves: dict[str, Move]) -> tuple[tuple[str, str], ...]:
    used = {part.name for move in moves.values() for part in (move.tensor, *move.norm)}
    spare = [tensor for tensor in source.tensors if tensor.name not in used]
    small = (one for one in spare if len(one.shape) == 1 and 0 < one.shape[0] <= WIDEST)
    biases = (one for one in small if one.dtype in ("float32", "float64"))
    reason = NAN if any(np.isnan(bias.load()).all() for bias in biases) else HEAD
    return (*((tensor.name, reason) for tensor in spare), *source.left_out)
