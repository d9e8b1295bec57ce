"""Transfer learning with VGG16 and VGG19 in JAX/Flax: photos in, a trained head and a live label out.

The public API, each loaded when it is first asked for:
    Predictor   a trained model at work: Predictor.load(path).predict_file(photo)
    Bundle      a trained model as a value;  load(path) reads one
    train       train(data="photos/", views=2, ...) -> the run's folder; the options are those of `vgg-flax train`
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vgg_flax.answers.bundle import Bundle, load
    from vgg_flax.answers.predictor import Predictor
    from vgg_flax.commands.train import train

__version__ = "0.1.0"
__all__ = ["Bundle", "Predictor", "load", "train"]

# A JPEG of one kilobyte can claim a gigapixel. OpenCV reads this limit once, when it is imported.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(100_000_000))

_HOMES = {
    "Predictor": "vgg_flax.answers.predictor",
    "Bundle": "vgg_flax.answers.bundle",
    "load": "vgg_flax.answers.bundle",
    "train": "vgg_flax.commands.train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vgg_flax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
