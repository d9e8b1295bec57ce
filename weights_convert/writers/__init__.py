"""A trained model of ours -> a file for another runtime. The format is told by the suffix, or by name."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_flax.config import UserError

if TYPE_CHECKING:
    from vgg_flax.bundle import Bundle
    from weights_convert.rounding import Weights

# format: (module, what it is); each module's `write(bundle, path, format)` makes the whole file at `path`.
FORMATS = {
    "onnx": ("onnx_graph", "ONNX, uint8 RGB in, probabilities out"),
    "keras": ("keras_model", "whole Keras model, RGB 0..255 in, probabilities out"),
    "stablehlo": ("stablehlo", "StableHLO for jax.export, uint8 RGB in, probabilities out"),
    "safetensors": ("arrays", "safetensors with our names"),
    "keras-weights": ("arrays", "backbone for keras.applications.VGG16(weights=FILE, include_top=False)"),
    "torchvision": ("arrays", "backbone as safetensors with torchvision's names"),
}
SUFFIXES = {".onnx": "onnx", ".keras": "keras", ".h5": "keras", ".safetensors": "safetensors"}
SUFFIXES |= {".stablehlo": "stablehlo"}


def format_of(path: Path, name: str) -> str:
    """The format: `name`, or told by the suffix when that is `auto`. Raises UserError."""
    if name != "auto":
        return name
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: the suffix {path.suffix or '(none)'} tells no format. Give --format {', '.join(FORMATS)}."
        )
    return SUFFIXES[path.suffix.lower()]


def write(bundle: Bundle, path: Path, name: str, *, weights: Weights = "float32", overwrite: bool = False) -> None:
    """Write `bundle` in the format `name`; the file appears whole or not at all.

    Args:
      weights: type of the stored kernels; ONNX has all three, the others float32 alone.

    Raises:
      UserError: the file exists, can't be written, or the format can't hold this model.
    """
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists. Give another name, or --overwrite.")
    if weights != "float32" and name != "onnx":
        raise UserError(f"{path}: {name} keeps float32 weights. Expected .onnx with --half or --int8.")
    module = importlib.import_module(f"weights_convert.writers.{FORMATS[name][0]}")
    options = {"weights": weights} if name == "onnx" else {}
    try:
        with _whole(path) as temporary:
            module.write(bundle, temporary, name, **options)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}.") from None


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A path beside `path`, with its suffix, that takes its place if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
