"""An open weight file -> our parameters, strictly: every tensor used or named, every target filled once."""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vgg_flax.network.params import Params, unflatten
from vgg_flax.network.spec import HeadSpec, Preprocessing
from weights_convert import backbone, keras_config
from weights_convert.mapping import LAYOUTS, NORM_PARTS, Move, check_shapes
from weights_convert.rules import DEPTHS, DIALECTS, TOP_LAYERS, Dialect, Rule, conv_names
from weights_convert.tensor import Source, Tensor, printable, refuse

if TYPE_CHECKING:
    from vgg_flax.network.spec import BackboneSpec
    from weights_convert.recipes import Recipe

HEAD, FIRST = "a head of its own", "backbone/block1_conv1/kernel"
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

    @property
    def table(self) -> Dialect:
        """The rule table that fits."""
        return DIALECTS[self.dialect]

    @property
    def bgr(self) -> bool:
        """The first kernel in the file expects BGR."""
        return self.moves[FIRST].flip

    def prepared(self, how: Recipe) -> Plan:
        """The same with another recipe."""
        moves = self.moves | {FIRST: dataclasses.replace(self.moves[FIRST], flip=how.bgr)}
        return dataclasses.replace(self, moves=moves, mean=how.preprocessing.mean, std=how.preprocessing.std)

    @property
    def has_top(self) -> bool:
        """The three fully connected layers are there, too."""
        return "top/fc1/kernel" in self.moves

    @property
    def top(self) -> HeadSpec | None:
        """The three fully connected layers as a head of ours."""
        if not self.has_top:
            return None
        *hidden, classes = (self.moves[f"top/{layer}/bias"].shape[0] for layer in TOP_LAYERS)
        return HeadSpec(classes, (5,), ("flatten",), tuple(hidden), standardize=False)

    @property
    def preprocessing(self) -> Preprocessing:
        """Of the backbone's input, for pictures as large as the top was made for, or of 224 pixels."""
        side = math.isqrt(self.moves["top/fc1/kernel"].shape[0] // self.blocks[-1][-1]) if self.has_top else 7
        return Preprocessing(32 * side, self.mean, self.std)

    @property
    def blocks(self) -> tuple[tuple[int, ...], ...]:
        """Output channels of every convolution, block by block."""
        depths = DEPTHS[self.model]
        widths = iter(self.moves[f"backbone/{name}/bias"].shape[0] for name in conv_names(depths))
        return tuple(tuple(next(widths) for _ in range(depth)) for depth in depths)

    def read(self, part: str) -> Params:
        """`backbone` or `top` as a nested dict of float32 arrays."""
        targets = [target for target in self.moves if target.startswith(f"{part}/")]
        return unflatten({target.removeprefix(f"{part}/"): self.moves[target].read() for target in targets})


def plan(source: Source, spec: BackboneSpec | None = None, dialect: str = "auto") -> Plan:
    """Find the dialect that fits and map every tensor, without reading one.

    Args:
      spec: the backbone that is expected; without it any full-size VGG16 or VGG19 is accepted.
      dialect: key of `rules.DIALECTS`, or `auto`: the one with the most tensors by name.

    Raises:
      WeightFileError: no VGG, another VGG than expected, a dialect that doesn't fit, a tensor missing, given twice or
        of a wrong shape.
    """
    names = source.dialects if dialect == "auto" else (dialect, *source.dialects)
    attempts = {name: _match(source, DIALECTS[name].rules) for name in names}
    scores = {name: _score(found) for name, found in attempts.items()}
    best = max(scores, key=lambda name: scores[name])
    name = best if dialect == "auto" else dialect
    if not scores[name][0] and (scores[best][0] or (source.whole and name[:4] != best[:4])):
        _wrong_dialect(source, name, best, scores[best][0])
    found, by = attempts[name], "name"
    if source.whole:  # its architecture says what is what, and is checked
        place, by = backbone.find(keras_config.read(source.path, source.config)), "its layers"
        found = {t: hits for t, hits in found.items() if t.startswith("top/")} | backbone.hits(source, place)
        scores[name] = _score(found)
    model = _recognise(source, found)
    moves = _in_order(found, model, DIALECTS[name].bgr, source)
    check_shapes(source, moves, model, spec)
    mean, std = _statistics(source, DIALECTS[name])
    why = _reason(source, name, scores, 2 * sum(DEPTHS[model]), by, told=dialect != "auto")
    return Plan(source.path, source.format, name, model, moves, _rest(source, moves), mean, std, why)


def _match(source: Source, rules: tuple[Rule, ...]) -> dict[str, list[tuple[Tensor, Rule]]]:
    """{target: tensors that a rule sends there}."""
    hits = []
    for tensor in source.tensors:
        matches = [(rule, re.fullmatch(rule.pattern, tensor.key)) for rule in rules]
        fits = [(rule, match.groupdict()) for rule, match in matches if match]
        # One name can come in several ranks; if none of the rules has the tensor's, the first names the mistake.
        fits.sort(key=lambda fit: LAYOUTS[fit[0].layout].rank != len(tensor.shape))
        if fits:
            hits.append((tensor, *fits[0]))
    ranked = {group: _rank(group, [groups for *_, groups in hits]) for group in ("index", "norm_index")}
    found: dict[str, list[tuple[Tensor, Rule]]] = collections.defaultdict(list)
    for tensor, rule, groups in hits:
        for group in ranked.keys() & groups.keys():
            groups["conv_layer"] = ranked[group].get(int(groups[group] or 0))
        if "{conv_layer}" not in rule.target or groups["conv_layer"]:
            found[rule.target.format(**groups)].append((tensor, rule))
    return dict(found)


def _rank(group: str, hits: list[dict[str, str | None]]) -> dict[int, str]:
    """{index: layer}: the n-th index is the n-th convolution, if there are as many as VGG16 or VGG19 has."""
    indices = sorted({int(groups[group] or 0) for groups in hits if group in groups})
    depths = next((d for d in DEPTHS.values() if sum(d) == len(indices)), None)
    return dict(zip(indices, conv_names(depths), strict=True)) if depths else {}


def _score(found: dict[str, list[tuple[Tensor, Rule]]]) -> tuple[int, int]:
    return sum(target.startswith("backbone/") for target in found), len(found)


def _wrong_dialect(source: Source, name: str, best: str, fitting: int) -> NoReturn:
    names = f"none of its tensors is called as in {name} ({DIALECTS[name].title})"
    refuse(source.path, f"{names}, {fitting} are as in {best}. Expected --dialect {best}, or none.")


def _reason(source: Source, name: str, scores: dict[str, tuple[int, int]], wanted: int, by: str, *, told: bool) -> str:
    backbone, total = scores[name]
    text = f"dialect {name}: {backbone} of {wanted} backbone tensors by {by}"
    others = {other: score for other, score in scores.items() if other != name}
    if told:
        return f"{text}; chosen by --dialect"
    if not others:
        return f"{text}; the only one for {source.format}"
    second = max(others, key=lambda other: others[other])
    theirs, all_theirs = others[second]
    text = f"{text}; next best {second}: {theirs}"
    if theirs < backbone:
        return text
    return f"{text}, and {all_theirs - theirs} others against {total - backbone}"  # dialects that differ in their tops


def _recognise(source: Source, found: dict[str, list[tuple[Tensor, Rule]]]) -> str:
    layers = {target.split("/")[1] for target in found if target.startswith("backbone/")}
    if not layers:
        seen = list(dict.fromkeys(re.sub(r"/[^/]*$", "", tensor.key) for tensor in source.tensors))
        some = ", ".join(map(printable, seen[:4])) + (f" and {len(seen) - 4} more" if len(seen) > 4 else "")
        refuse(
            source.path,
            f"is no VGG16 or VGG19 ({source.format}): expected 13 or 16 convolutions, "
            f"block1_conv1 to block5_conv3 or block5_conv4; found layers {some or 'none'}.",
        )
    model = "vgg19" if any(layer.endswith("conv4") for layer in layers) else "vgg16"
    missing = [
        f"{layer}/{part}"
        for layer in conv_names(DEPTHS[model])
        for part in ("kernel", "bias")
        if f"backbone/{layer}/{part}" not in found
    ]
    unexpected = sorted(layers - set(conv_names(DEPTHS[model])))
    if missing or unexpected:
        what = f"misses {', '.join(missing[:4])}" if missing else f"has {', '.join(unexpected[:4])}"
        more = f" and {len(missing) - 4} more" if len(missing) > 4 else ""
        refuse(source.path, f"looks like {model.upper()} but {what}{more}. Expected every layer once.")
    return model


def _in_order(found: dict[str, list[tuple[Tensor, Rule]]], model: str, bgr: bool, source: Source) -> dict[str, Move]:
    convs = conv_names(DEPTHS[model])
    targets = [f"backbone/{layer}/{part}" for layer in convs for part in ("kernel", "bias")]
    top = [f"top/{layer}/{part}" for layer in TOP_LAYERS for part in ("kernel", "bias")]
    normed = [layer for layer in convs if any(f"norm/{layer}/{part}" in found for part in NORM_PARTS)]
    norms = [f"norm/{layer}/{part}" for layer in normed for part in NORM_PARTS]
    wanted = targets + (top if all(target in found for target in top) else [])
    if missing := [target for target in norms if target not in found]:
        refuse(source.path, f"has batch norms but misses {missing[0]}. Expected four tensors for each.")
    wanted += norms
    moves = {target: _move(found[target], target, bgr, source) for target in wanted}
    channels = moves[f"backbone/{convs[-1]}/bias"].shape[0]
    places = moves["top/fc1/kernel"].shape[0] // channels if "top/fc1/kernel" in moves else 1
    apart = ("norm/",) if math.isqrt(places) ** 2 == places else ("norm/", "top/")  # our pictures are square
    return {
        target: dataclasses.replace(move, channels=channels, norm=_norm_of(target, moves))
        for target, move in moves.items()
        if not target.startswith(apart)
    }


def _norm_of(target: str, moves: dict[str, Move]) -> dict[str, Move]:
    layer = target.split("/")[1]
    return {part: moves[f"norm/{layer}/{part}"] for part in NORM_PARTS if f"norm/{layer}/{part}" in moves}


def _move(hits: list[tuple[Tensor, Rule]], target: str, bgr: bool, source: Source) -> Move:
    (tensor, rule), *others = hits
    if others:
        both = f"{tensor.name} and {others[0][0].name}"
        refuse(source.path, f"fills {target} twice, from {both}. Expected one VGG in the file.")
    if len(tensor.shape) != LAYOUTS[rule.layout].rank:
        found_shape = f"tensor {tensor.name} has shape {tensor.shape}"
        refuse(source.path, f"{found_shape}, expected {LAYOUTS[rule.layout].axes} for {target}.")
    flip = bgr and target == FIRST
    return Move(source.path, target, tensor, rule.layout, flip, epsilon=rule.epsilon)


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
    used = {part.tensor.name for move in moves.values() for part in (move, *move.norm.values())}
    spare = [tensor.name for tensor in source.tensors if tensor.name not in used]
    return (*((name, HEAD) for name in spare), *source.left_out)
