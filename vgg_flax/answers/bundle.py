"""A trained model on disk: `model.safetensors` and `model.json`, all that is needed to use it.

The JSON file holds what the arrays can't say: the architecture, the class names, the preprocessing record, the judge,
how the model came to be, and the SHA-256 of the arrays' file, checked at every load. Format 1; parameter paths are
those of `params`. A backbone without a head is kept in the same two files; its `head` is null. What the judge knows of
the training photos, where it knows them, is a third file, `judge.safetensors`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from vgg_flax.answers.judge import Judge, References
from vgg_flax.errors import UserError
from vgg_flax.files import temporary_name, write_atomic
from vgg_flax.network import params as param_tools
from vgg_flax.network.spec import BackboneSpec, HeadSpec, ModelSpec, Preprocessing

FORMAT = 1
ARRAYS, RECORD, JUDGE = "model.safetensors", "model.json", "judge.safetensors"
MEASURED = ("temperature", "min_precision", "sure", "reached", "candidate", "distance")  # of the judge, in the record


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


@dataclasses.dataclass(frozen=True)
class Backbone:
    """The convolutions of a bundle. `params` is {layer: {"kernel", "bias"}}; the rest is as in `Bundle`."""

    spec: BackboneSpec
    params: param_tools.Params
    preprocessing: Preprocessing
    training: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Entry:
    """One array to write: its path, its shape, and the function that makes it, float32."""

    path: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def save(bundle: Bundle, folder: Path) -> None:
    """Write the bundle. Each file appears whole or not at all."""
    record = describe(bundle.spec.backbone, bundle.spec.head, bundle.preprocessing, bundle.classes, bundle.training)
    record |= {"precision": bundle.spec.precision, "judge": measured(bundle.judge)}
    if bundle.judge.references:
        data = _photos_of(bundle.judge)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / JUDGE, data)
        record["judge_sha256"] = hashlib.sha256(data).hexdigest()
    write(folder, record, entries(bundle.params))


def measured(judge: Judge) -> dict[str, Any]:
    """What a judge was measured to be, without the training photos; JSON types."""
    return {name: getattr(judge, name) for name in MEASURED}


def _photos_of(judge: Judge) -> bytes:
    """judge.safetensors: what a judge knows of the training photos."""
    assert judge.references is not None
    arrays = {"features": judge.references.features, "seen": np.frombuffer(judge.seen, np.uint8).reshape(-1, 32)}
    return safetensors.numpy.save(arrays, {"names": json.dumps(judge.references.names)})


def describe(
    backbone: BackboneSpec,
    head: HeadSpec | None,
    preprocessing: Preprocessing,
    classes: tuple[str, ...],
    training: dict[str, Any],
) -> dict[str, Any]:
    """The record of a model, or without a head of a backbone, that nothing was measured of."""
    return {
        "format": FORMAT,
        "backbone": dataclasses.asdict(backbone),
        "head": head and dataclasses.asdict(head),
        "precision": "float32",
        "preprocessing": dataclasses.asdict(preprocessing),
        "classes": classes,
        "judge": measured(Judge()),
        "training": training,
    }


def write(folder: Path, record: dict[str, Any], arrays: list[Entry]) -> None:
    """Write the two files of a bundle; of the arrays, one at a time is in memory."""
    folder.mkdir(parents=True, exist_ok=True)
    sha256 = write_arrays(folder / ARRAYS, arrays)
    write_atomic(folder / RECORD, json.dumps({**record, "sha256": sha256}, indent=2))


def entries(params: param_tools.Params) -> list[Entry]:
    """Arrays that are in memory, to be written."""
    flat = param_tools.flatten(params)
    return [Entry(path, leaf.shape, functools.partial(np.asarray, leaf)) for path, leaf in flat.items()]


def write_arrays(path: Path, arrays: list[Entry], metadata: dict[str, str] | None = None) -> str:
    """Write a safetensors file, which appears whole or not at all. Returns its SHA-256, hexadecimal."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for entry in arrays:
        start, end = end, end + 4 * int(np.prod(entry.shape))
        header[entry.path] = {"dtype": "F32", "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    sha, temporary = hashlib.sha256(), temporary_name(path)
    try:
        with temporary.open("wb") as file:
            for piece in (struct.pack("<Q", len(text)), text):
                sha.update(piece)
                file.write(piece)
            for entry in arrays:
                array = _checked(entry)
                sha.update(array.data)
                file.write(array.data)
                del array  # before the next one is made
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return sha.hexdigest()


def _checked(entry: Entry) -> np.ndarray:
    array = np.ascontiguousarray(entry.read(), "<f4")
    if array.shape != entry.shape:
        raise ValueError(f"{entry.path} has shape {array.shape}, expected {entry.shape}.")
    return array


def load(path: str | Path) -> Bundle:
    """Read a bundle folder, or the bundle of a run folder.

    Raises:
      UserError: there is none, or it has no head, is damaged, was changed, or is from a newer version.
    """
    from vgg_flax.network.model import abstract_params  # loads JAX, which writing does without

    with _read(path) as (folder, record):
        if record["head"] is None:
            raise UserError(f"{folder} holds a backbone without a head. Train one on it: vgg-flax train --weights.")
        backbone, preprocessing = _backbone_spec(record), Preprocessing(**record["preprocessing"])
        head = HeadSpec(**record["head"] | {key: tuple(record["head"][key]) for key in ("blocks", "pools", "hidden")})
        spec = ModelSpec(backbone, head, preprocessing.image_size, record["precision"])
        params = param_tools.merge_strict(abstract_params(spec), _arrays(folder))
        classes, judge, training = tuple(record["classes"]), _judge(folder, record, backbone), record["training"]
    if len(classes) != head.classes:
        raise UserError(f"{folder / RECORD} names {len(classes)} classes, expected {head.classes}.")
    return Bundle(spec, params, classes, preprocessing, judge, training)


def load_backbone(path: str | Path) -> Backbone:
    """Read the convolutions of a bundle with or without a head. Raises UserError as `load` does."""
    from vgg_flax.network.model import abstract_params

    with _read(path) as (folder, record):
        spec, preprocessing = _backbone_spec(record), Preprocessing(**record["preprocessing"])
        expected = abstract_params(ModelSpec(spec, HeadSpec(2), preprocessing.image_size))["backbone"]
        params = param_tools.merge_strict(expected, _arrays(folder, "backbone/")["backbone"])
        return Backbone(spec, params, preprocessing, record["training"])


@contextlib.contextmanager
def _read(path: str | Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """(folder, its record); whatever is wrong with them in the `with` block is one line."""
    folder = find(Path(path))
    try:
        record = json.loads((folder / RECORD).read_bytes())
        if record["format"] != FORMAT:
            raise UserError(f"{folder / RECORD} has format {record['format']}, expected {FORMAT}: update vgg_flax.")
        with (folder / ARRAYS).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != record["sha256"]:
                raise UserError(f"{folder / ARRAYS} was changed or damaged (SHA-256). Copy or make it again.")
        yield folder, record
    except (OSError, KeyError, TypeError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(
            f"{folder} holds no usable model: {type(error).__name__}: {error}. Copy the whole folder, or train again."
        ) from None


def _judge(folder: Path, record: dict[str, Any], backbone: BackboneSpec) -> Judge:
    judge = Judge(**{name: record["judge"][name] for name in MEASURED})
    if "judge_sha256" not in record:
        return judge
    if hashlib.sha256(data := (folder / JUDGE).read_bytes()).hexdigest() != record["judge_sha256"]:
        raise UserError(f"{folder / JUDGE} was changed or damaged (SHA-256). Copy or make it again.")
    arrays = safetensors.numpy.load(data)
    with safetensors.safe_open(folder / JUDGE, "np") as file:
        names = json.loads(file.metadata()["names"])
    features, seen = arrays["features"], arrays["seen"]
    if features.shape != (len(names), backbone.blocks[-1][-1]) or seen.shape[1:] != (32,) or judge.distance is None:
        raise ValueError(f"{JUDGE} holds {features.shape} features of {len(names)} photos")
    return dataclasses.replace(judge, references=References(features, tuple(names)), seen=seen.tobytes())


def _backbone_spec(record: dict[str, Any]) -> BackboneSpec:
    return BackboneSpec(record["backbone"]["name"], tuple(map(tuple, record["backbone"]["blocks"])))


def _arrays(folder: Path, prefix: str = "") -> param_tools.Params:
    """The arrays whose paths begin with `prefix`; the others are not read."""
    with safetensors.safe_open(folder / ARRAYS, "np") as file:
        names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        return param_tools.unflatten({name: file.get_tensor(name) for name in names})


def find(path: Path) -> Path:
    """The bundle folder at `path`, which may also be a run folder or one of the bundle's two files."""
    for folder in (path, path / "model", path.parent):
        if (folder / RECORD).is_file() and (folder / ARRAYS).is_file():
            return folder
    raise UserError(f"no trained model in {path}: expected {RECORD} and {ARRAYS}, as a finished run leaves them.")
