"""Files that are not read: what they are, and what to type in their own framework."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from vgg_flax.files import typed
from weights_convert.readers.pickled_values import TorchTensor
from weights_convert.tensor import printable

LOAD = "load({0!r}, weights_only=False)"
TF2ONNX = "in a new virtual environment: pip install tensorflow tf2onnx; python -m tf2onnx.convert --output m.onnx "
CHECKPOINT = "in the program that built the model: model.load_weights({3!r}); model.save('model.h5')"
LATEST = CHECKPOINT.replace("{3!r}", "tf.train.latest_checkpoint({0!r})")
TORCH = "in Python, where you trust it: import torch; torch.save(torch.{1}, 'vgg.pth')"
FASTAI = (
    "in Python: import torch, fastai.vision.all as f; torch.save(f.load_learner({0!r}).model.state_dict(), 'vgg.pth')"
)
FROZEN = (
    ": torch.jit.freeze takes the names. Next, in Python: import torch; "
    "torch.onnx.export(torch.jit.load({0!r}), torch.zeros(1, 3, 224, 224), 'vgg.onnx', dynamo=False)"
)
# What a file's bytes or name tell: what it is, and the next step.
BYTES = {
    b"\x1f\x8b": ("is packed by gzip", "gunzip {2}"),
    b"MATLAB": ("is a MATLAB file", "in MATLAB, with the network as net: exportONNXNetwork(net, 'model.onnx')"),
    b"TFL3": ("is a TensorFlow Lite model", TF2ONNX + "--tflite {2}"),
}
NAMES: dict[str | tuple[str, ...], tuple[str, str]] = {
    ".caffemodel": ("is a Caffe model", "pip install caffemodel2pytorch, whose README has the two lines for {0!r}"),
    ".pb": ("is a TensorFlow graph", TF2ONNX + "--graphdef {2} --inputs x:0 --outputs y:0"),
    (".index", ".meta", ".data-00000-of-00001"): ("is a TensorFlow checkpoint", CHECKPOINT),
    ".pkl": ("is a pickle such as fastai's, which can run code when it is loaded", FASTAI),
}
FOLDERS = {
    "saved_model.pb": ("is a TensorFlow SavedModel, which holds a program", TF2ONNX + "--saved-model {2}"),
    "checkpoint": ("is a folder of TensorFlow checkpoints", LATEST),
    "model.safetensors": ("is a model of ours", "vgg-flax convert inspect {2}/model.safetensors"),
    "model/model.safetensors": ("is a run of ours", "vgg-flax convert inspect {2}/model/model.safetensors"),
}
PICKLE = ("is a bare pickle, which can run code when it is loaded", TORCH)


def why_not(path: Path, start: bytes = b"") -> str | None:
    """What a file or folder is and the next step, if it is one of these.

    Args:
      start: its first bytes.
    """
    found = [facts for name, facts in FOLDERS.items() if (path / name).exists()]
    found += [facts for magic, facts in BYTES.items() if magic in (start[: len(magic)], start[4:8])]
    found += [facts for name, facts in NAMES.items() if path.name.endswith(name) and not start.startswith(b"PK")]
    found += [PICKLE] if start[:1] == b"\x80" else []
    return f"{found[0][0]}, and is not read. Next, {filled(found[0][1], path)}" if found else None


def pickled(path: Path, named: str, stack: list[Any]) -> str:
    """What to type for a file of torch that holds more than tensors.

    Args:
      named: what its pickle names.
      stack: what was read before: of a checkpoint a dict, and what will be its keys and values.
    """
    state = ".state_dict()"
    if stack and isinstance(stack[0], dict):
        pairs = [(key, value) for key, value in itertools.pairwise(stack) if isinstance(value, dict)]
        found = [key for key, value in pairs if any(isinstance(one, TorchTensor) for one in value.values())]
        holds = f"[{stack[-1]!r}]{state}" if stack[-1] in ("model", "net", "module") else "['state_dict']"
        state = f"[{printable(found[0])!r}]" if found else holds
    jit = "jit.load({0!r})" if named.startswith("__torch__") else LOAD
    return f"Next, {filled(FASTAI if named.startswith('fastai') else TORCH, path, jit, state)}"


def filled(text: str, path: Path, load: str = LOAD, state: str = ".state_dict()") -> str:
    """One of these texts, for this file."""
    return text.format(str(path), load.format(str(path)) + state, typed(path), str(path.with_suffix("")))
