"""A trained model of ours -> a file for another runtime, or a folder for a hub.

The format is told by the suffix, or by name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vgg_flax.errors import UserError
from vgg_flax.files import temporary_name

if TYPE_CHECKING:
    from vgg_flax.answers.bundle import Bundle
    from weights_convert.rounding import Weights

# format: (module, what it is); each module's `write(bundle, path, format)` makes the whole file at `path`,
# `hub`'s fills the folder there.
FORMATS = {
    "onnx": ("onnx_graph", "ONNX, uint8 RGB in, probabilities out"),
    "keras": ("keras_model", "whole Keras model, RGB 0..255 in, probabilities out"),
    "stablehlo": ("stablehlo", "StableHLO for jax.export, uint8 RGB in, probabilities out"),
    "safetensors": ("arrays", "safetensors with our names"),
    "keras-weights": ("arrays", "weights for keras.applications; include_top=True if the head is flatten, fc1, fc2"),
    "torchvision": ("arrays", "backbone as safetensors with torchvision's names"),
    "hub": ("hub", "folder for a model hub; read its README.md and add a license before you publish it"),
}
SUFFIXES = {".onnx": "onnx", ".keras": "keras", ".h5": "keras", ".safetensors": "safetensors"}
SUFFIXES |= {".stablehlo": "stablehlo"}


def format_of(path: Path, name: str) -> str:
    """The format: `name`, or told by the suffix when that is `auto`; a folder can only be `hub`. Raises UserError."""
    if name != "auto":
        return name
    if path.is_dir():
        return "hub"
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path}: the suffix {path.suffix or '(none)'} tells no format. Give --format {', '.join(FORMATS)}."
        )
    return SUFFIXES[path.suffix.lower()]


def write(bundle: Bundle, path: Path, name: str, *, weights: Weights = "float32", overwrite: bool = False) -> None:
    """Write `bundle` in the format `name`; the file or folder appears whole or not at all.

    Args:
      weights: type of the stored kernels; ONNX has all three, the others float32 alone.

    Raises:
      UserError: the file exists, can't be written, or the format can't hold this model.
    """
    from vgg_flax.answers.bundle import ARRAYS, RECORD
    from weights_convert import store

    if path.exists() and not overwrite:
        raise UserError(f"{path} exists. Give another name, or --overwrite.")
    if path.name in (ARRAYS, RECORD) and all((path.parent / part).exists() for part in (ARRAYS, RECORD)):
        raise UserError(f"{path} belongs to a trained model, and is not replaced. Give another name.")
    if weights != "float32" and name != "onnx":
        raise UserError(f"{path}: {name} keeps float32 weights. Expected .onnx with --half or --int8.")
    module = importlib.import_module(f"weights_convert.writers.{FORMATS[name][0]}")
    options = {"weights": weights} if name == "onnx" else {}
    try:
        new = store.whole_folder(path, module.is_ours, overwrite=overwrite) if name == "hub" else _whole(path)
        with new as temporary:
            module.write(published(bundle), temporary, name, **options)
    except OSError as error:
        raise UserError(f"{path} can't be written: {error.strerror or error}.") from None


def published(bundle: Bundle) -> Bundle:
    """The same model without the user's own: of the paths in its training record the last part is left, of the photos
    that its judge knows nothing."""
    judge = bundle.judge.without_photos()
    return dataclasses.replace(bundle, judge=judge, training=_without_folders(bundle.training))


def _without_folders(value: Any, is_path: bool = False) -> Any:
    """JSON types in and out. A path in a sentence reaches from the first word with a separator to the last separator.

    Args:
      is_path: a text is a path from its first letter, as settings are.
    """
    if isinstance(value, dict):
        return {key: _without_folders(inner, is_path or key in ("data", "settings")) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_folders(inner, is_path) for inner in value]
    if not isinstance(value, str) or re.fullmatch(r"tfds:\w+/[\w.:]+", value):  # tfds:NAME/CONFIG is no path
        return value
    return re.sub(r"^.*[/\\]" if is_path else r"\S*[/\\](.*[/\\])?", "", value.rstrip("/\\"), flags=re.DOTALL)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A path beside `path`, with its suffix, that takes its place if all went well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
