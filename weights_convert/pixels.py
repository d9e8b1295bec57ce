"""What a model does to a picture before its first convolution: order of the colours, a factor and a summand for each.

A small picture of symbols goes through the layers as a NumPy array of `Term`s, so that an operation means what it
means in the framework. What comes out must be the picture again, its colours in some order, each by one factor and one
summand; anything else is refused by name. Source: the operators' documents of Keras, TensorFlow and ONNX.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import operator
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NoReturn

import numpy as np

from weights_convert import backbone, variables
from weights_convert.keras_config import Graph, Layer, Ref
from weights_convert.recipes import Exact
from weights_convert.rules import CAFFE
from weights_convert.tensor import Source, printable, read_float32, refuse

SYMBOLS = (5, 7, 11, 3)  # pictures, height, width, colours: sizes that tell the axes apart
CONSTANT = {"Rescaling", "Normalization", "BatchNormalization", "Affine"}  # x * factor + summand
EPSILON = 1e-7  # Keras's least standard deviation in Normalization
LARGE, FAR = 10**9, 10**9  # pixels; the end of an axis, as tf2onnx writes it, and torch more
MAX_CONSTANTS, MAX_STEPS, FLOAT32 = 4096, 200, 3.4e38
BEHIND = "To leave it out, save the model from behind it"


@dataclasses.dataclass(frozen=True)
class Inside:
    """What happens to a picture inside the model: channel i becomes x[order[i]] * scale[i] + offset[i].

    `resized` is (height and width, method) of a resizing layer, `steps` the layers that do something, for messages, and
    `skipped` Lambda layers, which are never run.
    """

    order: tuple[int, ...] = (0, 1, 2)
    scale: Exact = (1.0, 1.0, 1.0)
    offset: Exact = (0.0, 0.0, 0.0)
    resized: tuple[int, str] | None = None
    steps: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def scales(self) -> bool:
        """The model computes with pixels by itself, so that it takes them as they are."""
        return any(one != 1 for one in self.scale) or any(one != 0 for one in self.offset)

    @property
    def of_input(self) -> tuple[Exact, Exact]:
        """(scale, offset) in the order of the model's input."""
        (a, b, c), (x, y, z) = ([one[i] for i in np.argsort(self.order)] for one in (self.scale, self.offset))
        return (a, b, c), (x, y, z)

    @property
    def colours(self) -> str | None:
        """`rgb` or `bgr`, the order of the input, where its constants tell: those that subtract ImageNet's mean."""
        means = [float(-Fraction(o) / Fraction(s)) for s, o in zip(*self.of_input, strict=True)]
        for name, expected in (("rgb", CAFFE[0]), ("bgr", CAFFE[0][::-1])):
            if max(abs(one - other) for one, other in zip(means, expected, strict=True)) < 2:
                return name
        return None


@dataclasses.dataclass(frozen=True)
class Term:
    """One number of a picture: that with this index in the input, by a factor, and a summand. No other arithmetic."""

    source: int
    scale: Fraction = Fraction(1)
    offset: Fraction = Fraction(0)

    def __add__(self, other: Any) -> Term:
        return Term(self.source, self.scale, self.offset + Fraction(other))

    def __mul__(self, other: Any) -> Term:
        return Term(self.source, self.scale * Fraction(other), self.offset * Fraction(other))

    def __sub__(self, other: Any) -> Term:
        return self + -Fraction(other)

    def __rsub__(self, other: Any) -> Term:
        return self * -1 + other

    def __truediv__(self, other: Any) -> Term:
        return self * (1 / Fraction(other))

    __radd__, __rmul__ = __add__, __mul__


def inside(source: Source, graph: Graph, first: int, stated: bool = False) -> Inside:
    """What the layers that lead to layer `first` do; with `stated`, Lambda layers are what the person says.

    Raises:
      WeightFileError: a layer that does anything else, by name.
    """
    needed, stack = {first}, [first]
    while stack and len(needed) <= MAX_STEPS:
        reads = {ref.layer for ref in graph.layers[stack.pop()].reads} - needed
        needed |= reads
        stack += reads
    if len(needed) > MAX_STEPS:
        refuse(source.path, f"has more than {MAX_STEPS} layers before its first convolution.")
    walk = _Evaluation(source, stated)
    for i in sorted(needed):
        layer = graph.layers[i]
        of_vgg = i == first or (backbone.pads(layer) and first in graph.readers(i))
        walk.step(i, dataclasses.replace(layer, kind="Identity") if of_vgg else layer)
    return walk.result(walk.values[first][0])


def _picture(config: dict[str, Any]) -> np.ndarray:
    """The model's input."""
    terms = np.empty(int(np.prod(SYMBOLS)), object)
    terms[:] = [Term(i) for i in range(terms.size)]
    terms = terms.reshape(SYMBOLS)
    return terms.transpose(0, 3, 1, 2) if config.get("layout") == "nchw" else terms  # of an ONNX graph


class _Evaluation:
    def __init__(self, source: Source, stated: bool):
        self.source, self.stated = source, stated
        self.values: dict[int, list[Any]] = {}
        self.resized: tuple[int, str] | None = None
        self.steps: list[str] = []
        self.skipped: list[str] = []

    def step(self, i: int, layer: Layer) -> None:
        try:
            args, options = self.resolve([list(layer.args), layer.options])
            found = self._compute(layer, args, options) if layer.reads else _picture(layer.config)
        except (ValueError, IndexError, TypeError, KeyError, ArithmeticError, AttributeError):
            self._refuse(layer)
        self.values[i] = found if isinstance(found, list) else [found]
        if not layer.idle:
            self.steps.append(layer.name)

    def resolve(self, node: Any) -> Any:
        if isinstance(node, Ref):
            return self.values[node.layer][node.output]
        if isinstance(node, list):
            return [self.resolve(one) for one in node]
        return {key: self.resolve(one) for key, one in node.items()} if isinstance(node, dict) else node

    def _compute(self, layer: Layer, args: list[Any], options: dict[str, Any]) -> Any:
        kind, x = layer.kind.replace("_", "").lower(), args[0]
        facts = layer.config | {key: value for key, value in options.items() if value is not None}
        if layer.kind in CONSTANT:
            scale, offset = affine(self.source, layer)  # of the last axis
            return x * scale + offset
        if layer.kind == "Lambda" and self.stated:
            self.skipped.append(layer.title)
            return x
        if layer.idle:
            return x
        if kind in ("resizing", "resize"):
            height, width = facts.get("size") or [facts["height"], facts["width"]]
            if facts.get("crop_to_aspect_ratio") or self.resized or height != width or type(height) is not int:
                raise ValueError
            method = printable(facts.get("interpolation") or facts.get("method") or "bilinear")
            self.resized = height, method + (", antialiased" if facts.get("antialias") else "")
            return x
        if kind in ARITHMETIC:
            numbers = [*args, *(options[key] for key in ("x1", "x2", "x", "y", "bias") if key in options)]
            if any(np.size(number) > MAX_CONSTANTS for number in numbers):
                raise ValueError
            one, other = map(_exact, numbers)
            found = ARITHMETIC[kind](one, other)
            if found.shape not in (one.shape, other.shape) or not isinstance(found.flat[0], Term):
                raise ValueError
            return found
        return MOVES[kind](x, args[1:], facts)

    def _refuse(self, layer: Layer) -> NoReturn:
        if layer.kind == "Lambda":
            name = _probable_recipe(layer.config)
            probably = f"; it is probably {name}" if name else ""
            why = f"{layer.title} holds code, which is never run{probably}. Say what a picture is behind it"
            refuse(self.source.path, f"{why}: --preprocess {name or 'NAME'}.")
        what = f"{layer.title} does more than scale, shift and order colours"
        refuse(self.source.path, f"{what}. {BEHIND}{_cut(layer)}")

    def result(self, x: Any) -> Inside:
        steps = ", ".join(map(printable, self.steps)) or "the input"
        n, height, width, colours = SYMBOLS
        if np.shape(x) == (n, colours, height, width):  # ONNX's convolutions
            x = x.transpose(0, 2, 3, 1)
        if np.shape(x) != SYMBOLS or [t.source // colours for t in x.flat] != [i // colours for i in range(x.size)]:
            what = "the first convolution reads something else than a picture's colours"
            refuse(self.source.path, f"{steps}: {what}. {BEHIND}.")
        order, scale, offset = zip(*((t.source % colours, t.scale, t.offset) for t in x[0, 0, 0]), strict=True)
        rows = np.array([[Term(i, s, o) for i, s, o in zip(order, scale, offset, strict=True)]], object)
        same = all(
            t.scale == r.scale and t.offset == r.offset for t, r in zip(x.flat, np.resize(rows, x.size), strict=True)
        )
        if not same or set(order) != {0, 1, 2} or min(scale) <= 0:
            refuse(self.source.path, f"{steps}: expected one positive scale for each colour. {BEHIND}.")
        if min(scale) * LARGE < 1 or max(*scale, *map(abs, offset)) > LARGE:
            refuse(self.source.path, f"{steps}: takes pixels beyond {LARGE:.0e}.")
        return Inside(order, scale, offset, self.resized, tuple(self.steps), tuple(self.skipped))


def _cut(layer: Layer) -> str:
    """How a chain is saved from behind a layer of Keras; an operation on tensors is no layer of the model."""
    if "Crop" not in layer.kind or "/" in layer.place:
        return "."
    model = "keras.Sequential([keras.Input(m.layers[i].output.shape[1:]), *m.layers[i + 1:]])"
    place = f"i = m.layers.index(m.get_layer({printable(layer.name)!r}))"
    return f", in Keras, loaded as m: {place}; {model}.save('behind.keras')"


def _along(x: np.ndarray, axis: Any) -> int:
    """An axis as a number from 0, which must be one of colours."""
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if x.shape[axis] in SYMBOLS[:3]:
        raise ValueError
    return axis % x.ndim


def _index(x: np.ndarray, spec: Any) -> np.ndarray:
    """x[spec], where only colours are chosen: every other axis must stay whole."""
    spec = tuple(spec) if isinstance(spec, (list, tuple)) else (spec,)
    left = spec.index(...) if ... in spec else len(spec)
    whole = (slice(None),) * (x.ndim - len(spec) + (... in spec))
    for axis, one in enumerate((*spec[:left], *whole, *spec[left + 1 :])):
        all_of_it = isinstance(one, slice) and (one.start or 0, one.step or 1) == (0, 1)
        if x.shape[axis] in SYMBOLS[:3] and not (all_of_it and (one.stop is None or one.stop >= FAR)):
            raise ValueError
    return x[spec]


def _slice(x: np.ndarray, rest: list[Any], facts: dict[str, Any]) -> np.ndarray:
    """ONNX's Slice."""
    starts, ends = rest[:2] if rest else (facts["starts"], facts["ends"])
    axes = rest[2] if len(rest) > 2 else facts.get("axes") or range(len(starts))
    steps = rest[3] if len(rest) > 3 else [1] * len(starts)
    spec = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        start, end = (None if abs(edge) >= FAR else edge for edge in (start, end))
        spec[axis] = slice(start, end, step)
    return _index(x, spec)


def _split(x: np.ndarray, rest: list[Any], facts: dict[str, Any]) -> list[np.ndarray]:
    """Into single colours."""
    sizes = (rest[:1] or [3])[0] if "num_or_size_splits" not in facts else facts["num_or_size_splits"]
    if facts.get("indices_or_sections", sizes) not in (3, [1, 2], [1, 1, 1]):
        raise ValueError
    return np.split(x, 3, _along(x, facts["axis"]))


def _cast(x: np.ndarray, rest: list[Any], facts: dict[str, Any]) -> np.ndarray:
    if "int" in str(facts.get("dtype")) and x.flat[0].scale != 1:
        raise ValueError  # it cuts fractions off
    return x


def _several(x: Any, rest: list[Any]) -> list[Any]:
    return x if isinstance(x, list) else [x, *rest]


ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = dict.fromkeys(("add", "biasadd"), operator.add)
ARITHMETIC |= dict.fromkeys(("subtract", "sub"), operator.sub) | dict.fromkeys(("multiply", "mul"), operator.mul)
ARITHMETIC |= dict.fromkeys(("truedivide", "truediv", "divide", "div", "realdiv"), operator.truediv)
MOVES: dict[str, Callable[[Any, list[Any], dict[str, Any]], Any]] = {
    "identity": lambda x, rest, f: x,
    "cast": _cast,
    "negative": lambda x, rest, f: x * -1,
    "neg": lambda x, rest, f: x * -1,
    "getitem": lambda x, rest, f: _index(x, rest[0] if rest else f["slice_spec"]),
    "slice": _slice,
    "split": _split,
    "unstack": lambda x, rest, f: [part.squeeze(_along(x, f["axis"])) for part in _split(x, [], f)],
    "take": lambda x, rest, f: np.take(x, rest[0] if rest else f["indices"], _along(x, f["axis"])),
    "flip": lambda x, rest, f: np.flip(x, _along(x, rest[0] if rest else f["axis"])),
    "stack": lambda x, rest, f: np.stack(_several(x, rest), f["axis"]),
    "concat": lambda x, rest, f: np.concatenate(_several(x, rest), f["axis"]),
    "transpose": lambda x, rest, f: x.transpose(rest[0] if rest else f.get("axes") or f.get("perm") or [0, *f["dims"]]),
    "squeeze": lambda x, rest, f: x.squeeze(_along(x, rest[0] if rest else f["axes"])),
    "expanddims": lambda x, rest, f: np.expand_dims(x, (rest[0] if rest else f.get("axes") or [f["axis"]])[0]),
}
MOVES |= {"gather": MOVES["take"], "reverse": MOVES["flip"], "concatenate": MOVES["concat"]}
MOVES |= {"permute": MOVES["transpose"], "unsqueeze": MOVES["expanddims"]}


def affine(source: Source, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """(factor, summand) of a layer that multiplies and adds constants, as fractions."""
    if layer.kind == "Affine":  # an ONNX operator
        found = {t.key: read_float32(source.path, t) for t in source.tensors if t.key.startswith(f"{layer.name}/")}
        pair = (found.get(f"{layer.name}/{part}", np.full(1, one)) for part, one in (("scale", 1.0), ("offset", 0.0)))
    elif layer.kind == "Rescaling":
        pair = _constants(source, layer, {"offset": 0.0} | layer.config, "scale", "offset")
    elif layer.kind == "BatchNormalization":
        pair = variables.norm(source, layer)
    else:
        mean, deviation = map(_exact, moments(source, layer))
        pair = 1 / deviation, -mean / deviation
    scale, offset = map(_exact, pair)
    return scale, offset


def moments(source: Source, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) of a Normalization, float64 [n]: of its configuration, or learned by `adapt`."""
    config = layer.config
    if config.get("mean") is None:
        config = config | {part: variables.read(source, layer, part) for part in ("mean", "variance")}
    mean, variance = _constants(source, layer, config, "mean", "variance")
    if variance.min() < 0:
        refuse(source.path, f"layer {printable(layer.name)} has negative variances.")
    return mean, np.maximum(np.sqrt(variance), EPSILON)


def _constants(source: Source, layer: Layer, config: dict[str, Any], *keys: str) -> list[np.ndarray]:
    try:
        arrays = [np.asarray(config[key], np.float64).reshape(-1) for key in keys]
        if all(array.size and (np.abs(array) < FLOAT32).all() for array in arrays) and not config.get("invert"):
            return arrays
    except (KeyError, TypeError, ValueError):
        pass
    refuse(source.path, f"layer {printable(layer.name)} has no finite constants in its configuration.")


def _exact(values: Any) -> np.ndarray:
    """Numbers as fractions; fractions and terms as they are."""
    array = np.asarray(values)
    if array.dtype == object:
        return array
    return np.array([Fraction(value) for value in array.reshape(-1).tolist()], object).reshape(array.shape)


def _probable_recipe(config: dict[str, Any]) -> str:
    """What the code of a Lambda layer probably is, by the names and numbers in its bytes. Nothing is run."""
    code, stack = b"", [config.get("function")]
    while stack:
        part = stack.pop()
        stack += list(part.values()) if isinstance(part, dict) else part if isinstance(part, list) else []
        if isinstance(part, str):
            code += part.encode()
            with contextlib.suppress(ValueError):
                code += base64.b64decode(part)
    for number, name in ((127.5, "rgb-symmetric"), (103.939, "bgr-caffe"), (255.0, "rgb-unit")):
        if struct.pack("<d", number) in code:
            return name
    return "bgr-caffe" if b"preprocess_input" in code else ""
