"""A trained model on disk: `model.safetensors` and `model.json`, all that is needed to use it.

The JSON file holds what the arrays can't say: the architecture, the class names, the preprocessing record, the judge,
and how the model came to be. Format 1; parameter paths are those of `params`.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from vgg_flax.answers.judge import Judge
from vgg_flax.errors import UserError
from vgg_flax.files import write_atomic
from vgg_flax.network import params as param_tools
from vgg_flax.network.model import abstract_params
from vgg_flax.network.spec import BackboneSpec, HeadSpec, ModelSpec, Preprocessing

FORMAT = 1
ARRAYS, RECORD = "model.safetensors", "model.json"


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Everything that turns a picture into a label.

    Attributes:
      spec: the architecture.
      params: nested dict of float32 arrays.
      classes: names, in the order of the logits.
      preprocessing: how a picture becomes network input.
      judge: what its probabilities are worth.
      training: where the model comes from: data, settings, metrics. Free form, JSON types only.
    """

    spec: ModelSpec
    params: param_tools.Params
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    judge: Judge = dataclasses.field(default_factory=Judge)
    training: dict[str, Any] = dataclasses.field(default_factory=dict)


def save(bundle: Bundle, folder: Path) -> None:
    """Write the bundle. Each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {path: np.ascontiguousarray(leaf) for path, leaf in param_tools.flatten(bundle.params).items()}
    write_atomic(folder / ARRAYS, safetensors.numpy.save(arrays))
    record = {
        "format": FORMAT,
        "backbone": dataclasses.asdict(bundle.spec.backbone),
        "head": dataclasses.asdict(bundle.spec.head),
        "precision": bundle.spec.precision,
        "preprocessing": dataclasses.asdict(bundle.preprocessing),
        "classes": bundle.classes,
        "judge": dataclasses.asdict(bundle.judge),
        "training": bundle.training,
    }
    write_atomic(folder / RECORD, json.dumps(record, indent=2).encode())


def load(path: str | Path) -> Bundle:
    """Read a bundle folder, or the bundle of a run folder.

    Raises:
      UserError: there is none, or it is damaged or from a newer version.
    """
    folder = find(Path(path))
    try:
        record = json.loads((folder / RECORD).read_bytes())
        if record["format"] != FORMAT:
            raise UserError(f"{folder / RECORD} has format {record['format']}, expected {FORMAT}: update vgg_flax.")
        backbone = BackboneSpec(record["backbone"]["name"], tuple(map(tuple, record["backbone"]["blocks"])))
        head = HeadSpec(**record["head"] | {key: tuple(record["head"][key]) for key in ("blocks", "pools", "hidden")})
        preprocessing = Preprocessing(**record["preprocessing"])
        spec = ModelSpec(backbone, head, preprocessing.image_size, record["precision"])
        flat = safetensors.numpy.load_file(folder / ARRAYS)
        params = param_tools.merge_strict(abstract_params(spec), param_tools.unflatten(flat))
        classes, judge = tuple(record["classes"]), Judge(**record["judge"])
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(f"{folder} holds no usable model: {type(error).__name__}: {error}.") from None
    if len(classes) != head.classes:
        raise UserError(f"{folder / RECORD} names {len(classes)} classes, expected {head.classes}.")
    return Bundle(spec, params, classes, preprocessing, judge, record["training"])


def find(path: Path) -> Path:
    """The bundle folder at `path`, which may also be a run folder or one of the bundle's two files."""
    for folder in (path, path / "model", path.parent):
        if (folder / RECORD).is_file() and (folder / ARRAYS).is_file():
            return folder
    raise UserError(f"no trained model in {path}: expected {RECORD} and {ARRAYS}, as a finished run leaves them.")
