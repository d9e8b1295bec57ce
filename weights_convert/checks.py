"""Shapes of a mapping, before any tensor is read: each must be the one that VGG has at that place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from weights_convert.layouts import LAYOUTS
from weights_convert.moves import Move
from weights_convert.readers.base import Source, refuse
from weights_convert.rules import DEPTHS, TOP_LAYERS, WIDTHS, conv_names

if TYPE_CHECKING:
    from vgg_flax.network.spec import BackboneSpec


def check_shapes(source: Source, moves: dict[str, Move], model: str, spec: BackboneSpec | None) -> None:
    """Compare with `spec`, or with the full-size model. Raises WeightFileError, naming the tensor."""
    names = conv_names(DEPTHS[model])
    if spec is None:
        widths = [width for width, depth in zip(WIDTHS, DEPTHS[model], strict=True) for _ in range(depth)]
    else:
        if tuple(map(len, spec.blocks)) != DEPTHS[model]:
            wrong_model(source.path, model, spec.name)
        widths = [width for block in spec.blocks for width in block]
    channels = 3
    for name, width in zip(names, widths, strict=True):
        kernel, bias = moves[f"backbone/{name}/kernel"], moves[f"backbone/{name}/bias"]
        stored = kernel.tensor.shape
        if kernel.layout == "hwio" and stored[2:] == (3, 3) and stored[:2] != (3, 3):
            refuse(
                source.path,
                f"tensor {kernel.tensor.name} has shape {stored}: channels_first kernels of a Theano model, "
                "which are not read. Expected [3, 3, in, out]: save the weights as channels_last.",
            )
        norms = [(move, (width,)) for move in bias.norm.values()]
        for move, shape in ((kernel, (3, 3, channels, width)), (bias, (width,)), *norms):
            if move.shape != shape:
                axes = LAYOUTS[move.layout].axes
                stored_as = f"{move.tensor.shape} as {axes}"
                wanted = f"{move.target} of {model.upper()} is {shape} as [height, width, in, out]"
                refuse(source.path, f"tensor {move.tensor.name} has shape {stored_as}; {wanted}.")
        channels = width
    if "top/fc1/kernel" in moves:
        _check_top(source, moves, channels)


def _check_top(source: Source, moves: dict[str, Move], channels: int) -> None:
    inputs = moves["top/fc1/kernel"].shape[0]
    if inputs % channels:
        refuse(source.path, f"fc1 reads {inputs} features. Expected a multiple of {channels} channels.")
    for layer in TOP_LAYERS:
        kernel, bias = moves[f"top/{layer}/kernel"], moves[f"top/{layer}/bias"]
        if kernel.shape != (inputs, *bias.shape):
            refuse(
                source.path,
                f"tensor {kernel.tensor.name} has shape {kernel.shape}, expected {(inputs, *bias.shape)}: "
                f"{inputs} features in, and as many out as {bias.tensor.name} has.",
            )
        inputs = bias.shape[0]


def wrong_model(path: Path, found: str, expected: str) -> NoReturn:
    """Refuse a file that holds the other model."""
    have, want = (f"{name.upper()} ({sum(DEPTHS[name])} convolutions)" for name in (found, expected))
    refuse(path, f"holds {have}, expected {want}: use --model {found}.")
