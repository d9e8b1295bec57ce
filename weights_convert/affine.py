"""Layers of a Keras model that multiply and add constants: Rescaling, Normalization, arithmetic of an ONNX graph."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

from weights_convert.keras_config import IDLE, Layer
from weights_convert.recipes import Exact
from weights_convert.tensor import Source, printable, read_float32, refuse

CONSTANT = {"Rescaling", "Normalization", "Affine"}  # x * factor + summand
EPSILON = 1e-7  # Keras's least standard deviation in Normalization
LARGE = 10**9


def rescaling(source: Source, layers: list[Layer]) -> tuple[Exact, Exact]:
    """(scale, offset), a number a colour, of all layers before the first convolution. Raises WeightFileError."""
    scale, offset = _exact(np.ones(3)), _exact(np.zeros(3))
    for layer in layers:
        if layer.kind in CONSTANT:
            by, plus = affine(source, layer)
            if by.size not in (1, 3) or plus.size not in (1, 3) or by.min() <= 0:
                refuse(source.path, f"layer {printable(layer.name)} lacks one positive scale for each colour.")
            scale, offset = scale * by, offset * by + plus
            if scale.min() * LARGE < 1 or max(scale.max(), abs(offset).max()) > LARGE:
                refuse(source.path, f"layer {printable(layer.name)} takes pixels beyond {LARGE:.0e}.")
        elif layer.kind not in IDLE:
            what = f"{printable(layer.kind)} {printable(layer.name)}"
            refuse(source.path, f"{what} changes the input before the first convolution, which is not carried over.")
    return (scale[0], scale[1], scale[2]), (offset[0], offset[1], offset[2])


def affine(source: Source, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """(factor, summand) of a layer that multiplies and adds constants, as fractions."""
    if layer.kind == "Affine":  # an ONNX operator
        found = {t.key: read_float32(source.path, t) for t in source.tensors if t.key.startswith(f"{layer.name}/")}
        scale, offset = found.get(f"{layer.name}/scale", np.ones(1)), found.get(f"{layer.name}/offset", np.zeros(1))
        return _exact(scale), _exact(offset)
    if layer.kind == "Rescaling":
        by, plus = _constants(source, layer, {"offset": 0.0} | layer.config, "scale", "offset")
        return _exact(by), _exact(plus)
    mean, deviation = map(_exact, moments(source, layer))
    return 1 / deviation, -mean / deviation


def moments(source: Source, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) of a Normalization, float64 [n]."""
    mean, variance = _constants(source, layer, layer.config, "mean", "variance")
    if variance.min() < 0:
        refuse(source.path, f"layer {printable(layer.name)} has negative variances.")
    return mean, np.maximum(np.sqrt(variance), EPSILON)


def _constants(source: Source, layer: Layer, config: dict[str, Any], *keys: str) -> list[np.ndarray]:
    try:
        arrays = [np.asarray(config[key], np.float64).reshape(-1) for key in keys]
        large = np.finfo(np.float32).max
        if config.get("invert") or not all(array.size and (np.abs(array) <= large).all() for array in arrays):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        refuse(source.path, f"layer {printable(layer.name)} keeps its constants elsewhere than in its configuration.")
    return arrays


def _exact(values: np.ndarray) -> np.ndarray:
    return np.array([Fraction(value) for value in values.tolist()], object)
