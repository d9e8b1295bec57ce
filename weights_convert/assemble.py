"""Weights without an architecture, of which only names and shapes are known -> a VGG as a chain of layers.

The 13 or 16 convolutions are found by their shapes in their order, whatever they are called: 3 channels come in, each
reads what the one before gives, and the widths change where VGG's blocks do. Behind them, dense layers and batch norms
that read each other are the head. Activations hold no tensors: they are VGG's own between its three layers on top, or a
layer called `Unstated`, which the person must say.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.keras_config import ADAPTIVE
from weights_convert.mapping import from_oihw, rows_from_chw
from weights_convert.rules import DEPTHS, TOP_LAYERS
from weights_convert.tensor import TRAIN, Source, Tensor, natural, printable, refuse

# What frameworks call the parts of a layer: the first name is ours.
KERNEL, BIAS = ("kernel", "W", "weight"), ("bias", "b")
NORM = (
    ("gamma", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var", "running_std"),
)
OWN = (TOP_LAYERS, ("fc6", "fc7", "fc8"), ("classifier.0", "classifier.3", "classifier.6"))
OWN += (("pre_logits.fc1", "pre_logits.fc2", "head.fc"),)
EXPECTED = "expected 13 or 16 convolutions of 3x3 that read each other, the first one 3 colours, under any names"


@dataclasses.dataclass(frozen=True)
class Module:
    """One layer in the file: its tensors by what the file calls them; torch's kernels are [out, in, ...]."""

    name: str
    parts: dict[str, Tensor]
    torch: bool

    def part(self, names: tuple[str, ...], number: int) -> Tensor | None:
        return next((self.parts[name] for name in (*names, str(number)) if name in self.parts), None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its kernel, as ours are: [height, width, in, out] or [in, out]; of a batch norm, [n]."""
        tensor = self.part((*KERNEL, *NORM[0], *NORM[1]), 0)
        shape = tensor.shape if tensor else ()
        return (*shape[2:], *shape[1::-1]) if self.torch else shape

    @property
    def norm(self) -> bool:
        """It is a batch norm, or another layer with one number a channel."""
        return len(self.shape) == 1


def assemble(source: Source) -> Source:
    """The same tensors with keys such as `block1_conv1/kernel`, kernels in our layout, and their chain of layers.

    Raises:
      WeightFileError: there is no VGG, or there are several.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for tensor in source.tensors:
        name, _, part = tensor.key.rpartition("/")
        parts = found.setdefault(re.sub(r"^(.+)/\1$", r"\1", name), {})  # Keras's conv1/conv1
        if parts.setdefault(part := re.sub(r"(?<=\D)_\d+$", "", part), tensor) is not tensor:
            refuse(source.path, f"holds {printable(part)} of {printable(name)} twice. Expected one VGG in the file.")
    torch = source.dialects[0] in ("torchvision", "timm")
    modules = [Module(name, parts, torch) for name, parts in found.items()]
    modules = [one for one in modules if 0 < len(one.shape) <= 4 and not one.name.startswith("head/")]  # a head of ours
    convs = _convolutions(source, modules)
    chain = _Chain(source.path, known=source.ordered or torch)
    chain.backbone(convs, modules if source.ordered else sorted(modules, key=lambda module: natural(module.name)))
    rest = [tensor for tensor in source.tensors if id(tensor) not in chain.used]
    config = {"class_name": "Sequential", "config": chain.layers, "first": convs[0].name}
    own = source.config if isinstance(source.config, dict) else {}
    return dataclasses.replace(source, tensors=(*chain.tensors, *rest), config=own | config, by_place=False)


def _convolutions(source: Source, modules: list[Module]) -> list[Module]:
    """VGG's: by the numbers in their names where they are alike but for these, or else in the order of the file."""
    convs = [module for module in modules if module.shape[:2] == (3, 3) and len(module.shape) == 4]
    numbered = sorted(convs, key=lambda module: natural(module.name))
    found = [run for run in _runs(numbered) if _alike(run)]
    found = found or [run for run in _runs(convs) if source.ordered and not _alike(run)]
    if len(found) > 1:
        names = " and ".join(printable(run[0].name) for run in found[:2])
        refuse(source.path, f"holds {len(found)} VGGs, which begin with {names}. Expected one VGG in the file.")
    if found:
        return found[0]
    if any(module.shape[2:] == (3, 3) for module in modules) and not convs:
        refuse(
            source.path,
            "has channels_first kernels of a Theano model, which are not read. Expected [3, 3, in, out]: in Keras, "
            "keras.backend.set_image_data_format('channels_last') and load_weights, then save_weights.",
        )
    names = [printable(module.name) for module in convs or modules]
    some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    kind = f"{len(convs)} convolutions" if convs else "layers"
    step = TRAIN if convs or not names else "Is it a head alone? Then: import --backbone imagenet, or a FILE."
    refuse(source.path, f"is no VGG16 or VGG19 ({source.format}): {EXPECTED}; found {kind} {some or 'none'}. {step}")


def _alike(run: list[Module]) -> bool:
    return len({re.sub(r"_?\d+", "", module.name) for module in run}) == 1


def _runs(convs: list[Module]) -> list[list[Module]]:
    """Every run of consecutive convolutions whose shapes are those of VGG19 or VGG16."""
    found = []
    for start, first in enumerate(convs):
        for depths in (DEPTHS["vgg19"], DEPTHS["vgg16"]) if first.shape[2] == 3 else ():
            run = convs[start : start + sum(depths)]
            ends = list(itertools.accumulate(depths))
            blocks = [run[end - depth : end] for end, depth in zip(ends, depths, strict=True)]
            linked = all(a.shape[3] == b.shape[2] for a, b in itertools.pairwise(run))
            even = all(len({m.shape[3] for m in block}) == 1 for block in blocks)
            if len(run) == ends[-1] and linked and even and all(module.shape[3] for module in run):
                found.append(run)
                break
    return found


class _Chain:
    """The layers as they are put together, and their tensors; `known`: the order of norms and dense layers is."""

    def __init__(self, path: Path, *, known: bool):
        self.path, self.known = path, known
        self.layers: list[dict[str, Any]] = []
        self.tensors: list[Tensor] = []
        self.used: set[int] = set()
        self.channels = 0

    def backbone(self, convs: list[Module], modules: list[Module]) -> None:
        """Convolutions, batch norms, and what comes behind; `modules` are all, in order."""
        norms = self._norms(convs, modules)
        depths = next(depths for depths in DEPTHS.values() if sum(depths) == len(convs))
        self.channels, k = convs[-1].shape[3], 0
        for i, depth in enumerate(depths, 1):
            for j in range(1, depth + 1):
                self._weights("Conv2D", convs[k], f"block{i}_conv{j}", padding="same", strides=[1, 1])
                if norms:
                    self._norm(norms[k], f"block{i}_norm{j}")
                self._layer("Activation", activation="relu")
                k += 1
            self._layer("MaxPooling2D", pool_size=[2, 2])
        self._head([module for module in modules if module not in convs and module not in norms])

    def _norms(self, convs: list[Module], modules: list[Module]) -> list[Module]:
        """The batch norms of the convolutions, one behind each, or none at all."""
        widths = [conv.shape[3:] for conv in convs]
        norms = [module for module in modules if module.norm]
        runs = [norms[i : i + len(widths)] for i in range(len(norms))]
        found = next((run for run in runs if [norm.shape for norm in run] == widths), [])
        place = {id(module): i for i, module in enumerate(modules)}
        between = range(place[id(convs[0])], place[id(convs[-1])])
        if strange := [norm for norm in norms if norm not in found and place[id(norm)] in between]:
            what = f"{printable(strange[0].name)} is among the convolutions"
            refuse(self.path, f"{what}. Expected a batch norm behind each of them, or none.")
        return found

    def _head(self, modules: list[Module]) -> None:
        """Dense layers and their batch norms, of which each reads what the one before gives."""
        tops = ([m for name in names for m in modules if m.name.endswith(name) and not m.norm] for names in OWN)
        chain: list[Module] = next((top for top in tops if len(top) == 3), [])
        own, size = bool(chain), 0
        for module in modules if not own else ():
            reads = math.prod(module.shape[:-1] or module.shape)
            side = math.isqrt(reads // self.channels)
            starts = not size and reads and side * side * self.channels == reads
            norm = module.norm and len(module.parts) > 2
            if (len(module.shape) == 2 or norm) and (starts or (size and reads == size)):
                chain.append(module)
                size = module.shape[-1]
        while chain and chain[-1].norm:
            chain.pop()
        others = [m for m in modules if m not in chain and (len(m.shape) == 2 or (m.norm and len(m.parts) > 2))]
        if not chain or (not self.known and any(module.norm for module in modules)):
            return self._spare(others or [module for module in modules if module.norm] if chain else [])
        side = math.isqrt(math.prod(chain[0].shape[:-1] or chain[0].shape) // self.channels)
        flat = side > 1
        own = own and (flat or not chain[0].torch)
        if flat or own:
            size = [None, 32 * side, 32 * side, 3]
            self.layers.insert(0, {"class_name": "InputLayer", "config": {"name": "images", "batch_shape": size}})
        if flat and chain[0].torch:  # VGG's own pool, for pictures of another size
            self._layer(ADAPTIVE, output_size=side)
        self._layer("Flatten" if flat or own else "GlobalAveragePooling2D")
        for i, module in enumerate(chain):
            if module.norm:
                self._norm(module, f"{module.name}-norm", flat=flat)
            else:
                self._weights("Dense", module, TOP_LAYERS[i] if own else f"{module.name}-dense", flat=flat)
                flat = False
            if i + 1 < len(chain) and (i or not module.norm):
                self._between(module.name, chain[i + 1].name, own)
        self._spare(others)

    def _spare(self, modules: list[Module]) -> None:
        """They may lie between the others, or be another head."""
        self.layers += [{"class_name": "spare layer", "config": {"name": module.name}} for module in modules]

    def _between(self, one: str, other: str, own: bool) -> None:
        """The activation between two modules, where their numbers leave room for one."""
        a, b = one.split("."), other.split(".")
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
        numbers = [part[common] for part in (a, b) if len(part) > common]
        numbered = len(numbers) == 2 and all(number.isdecimal() and len(number) < 9 for number in numbers)
        if own or (a[common - 1 : common] == ["classifier"] and numbers in (["0", "3"], ["3", "6"])):
            self._layer("Activation", activation="relu")
        elif not numbered or int(numbers[1]) - int(numbers[0]) > 1:
            self._layer("Unstated", between=f"{one} and {other}")

    def _weights(self, kind: str, module: Module, name: str, flat: bool = False, **config: Any) -> None:
        """A convolution or dense layer."""
        kernel, bias = module.part(KERNEL, 0), module.part(BIAS, 1)
        assert kernel is not None
        channels = self.channels

        def ours(array: np.ndarray) -> np.ndarray:
            if not module.torch:
                return array
            if kind == "Conv2D":
                return from_oihw(array)
            if flat and array.ndim == 2:
                return rows_from_chw(array, channels)
            return from_oihw(array).reshape(-1, len(array)) if array.ndim == 4 else array.T

        shape = module.shape if kind == "Conv2D" else (math.prod(module.shape[:-1]), module.shape[-1])
        self._take(kernel, f"{name}/kernel", shape, ours)
        if bias is not None:
            self._take(bias, f"{name}/bias", bias.shape, lambda array: array)
        self.layers.append({"class_name": kind, "config": {"name": name, "use_bias": bias is not None, **config}})

    def _norm(self, module: Module, name: str, flat: bool = False) -> None:
        """A batch norm; of flattened features torch's come channel by channel."""
        columns = self.channels if flat and module.torch else 1
        parts = [module.part(names, number) for number, names in enumerate(NORM)]
        for names, tensor in zip(NORM, parts, strict=True):
            if tensor is None and names[0].startswith("moving"):
                what = f"misses {names[int(module.torch)]} of {printable(module.name)}"
                refuse(self.path, f"{what}. Expected four tensors for each batch norm.")
            if tensor is not None:
                shape = (math.prod(tensor.shape),)
                self._take(tensor, f"{name}/{names[0]}", shape, lambda array: array.reshape(columns, -1).T.reshape(-1))
        facts = {
            "scale": parts[0] is not None,
            "center": parts[1] is not None,
            "epsilon": 1e-5 if module.torch else 1e-3,
        }
        self.layers.append({"class_name": "BatchNormalization", "config": {"name": name, **facts}})

    def _take(
        self, tensor: Tensor, key: str, shape: tuple[int, ...], convert: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        self.used.add(id(tensor))
        load = tensor.load
        self.tensors.append(dataclasses.replace(tensor, key=key, shape=shape, load=lambda: convert(load())))

    def _layer(self, kind: str, **config: Any) -> None:
        self.layers.append({"class_name": kind, "config": {"name": f"{kind}_{len(self.layers)}", **config}})
