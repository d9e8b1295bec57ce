"""The stored arrays of one layer of a whole model, found by the layer's name, or by its place where names are absent.

Keras before 3.7 numbers the layers of an archive by their class, in the order of the model, and writes no names.
"""

from __future__ import annotations

import re

import numpy as np

from weights_convert.keras_config import Layer
from weights_convert.tensor import Source, Tensor, printable, read_float32, refuse

# Part: (what Keras has called it, its number among the variables of a layer that has all of them).
PARTS = {
    "kernel": (("kernel", "W"), 0),
    "bias": (("bias", "b"), 1),
    "gamma": (("gamma",), 0),
    "beta": (("beta",), 1),
    "moving_mean": (("moving_mean", "running_mean"), 2),
    "moving_variance": (("moving_variance", "running_std"), 3),
    "mean": (("mean",), 0),
    "variance": (("variance",), 1),
}
NORM = ("gamma", "beta", "moving_mean", "moving_variance")


def find(source: Source, layer: Layer, part: str) -> Tensor | None:
    """The tensor, or None where the layer has no such part by its configuration.

    Raises:
      WeightFileError: none in the file, or several.
    """
    names, index = PARTS[part]
    config = layer.config
    absent = {
        "gamma": not config.get("scale", True),
        "beta": not config.get("center", True),
        "bias": not config.get("use_bias", True),
    }
    if absent.get(part):
        return None
    if part in NORM:  # the others move up
        index -= sum(absent[one] for one in ("gamma", "beta") if PARTS[one][1] < index)
    if source.by_place:
        found = [t for t in source.tensors if t.key == f"{layer.place}/{index}"]
    else:
        spelled = "|".join(map(re.escape, (*names, str(index))))
        pattern = re.compile(rf"(?:.*/)?{re.escape(layer.name)}/(?:.*/)?(?:{spelled})(?:_\d+)?")
        found = [t for t in source.tensors if pattern.fullmatch(t.key)]
    if len(found) != 1:
        what = f"{len(found)} tensors called {names[0]} for layer {printable(layer.name)}"
        refuse(source.path, f"holds {what}, not one. Next, where the model was built: model.save('model.keras')")
    return found[0]


def read(source: Source, layer: Layer, part: str) -> np.ndarray | None:
    """The array, float32, or None."""
    tensor = find(source, layer, part)
    return None if tensor is None else read_float32(source.path, tensor)


def norm(source: Source, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """(factor, summand) of a batch norm, float64 [n]."""
    arrays = (read(source, layer, part) for part in NORM)
    gamma, beta, mean, variance = (None if one is None else one.astype(np.float64) for one in arrays)
    assert variance is not None and mean is not None
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + epsilon(source, layer))
    if not np.isfinite(scale).all():
        refuse(source.path, f"layer {printable(layer.name)} has negative variances.")
    return scale, (0.0 if beta is None else beta) - mean * scale


def epsilon(source: Source, layer: Layer) -> float:
    """What a batch norm adds to its variance."""
    found = layer.config.get("epsilon", 1e-3)
    if not isinstance(found, (int, float)) or not 0 <= found < 1:
        refuse(
            source.path, f"layer {printable(layer.name)} has the epsilon {printable(found)}. Expected a small number."
        )
    return found
