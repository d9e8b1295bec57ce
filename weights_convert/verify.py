"""An exported file against the model it was made from: the same pictures through the file's own runtime and ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from vgg_flax.errors import UserError
from vgg_flax.network.params import flatten
from weights_convert.readers import open_source
from weights_convert.rounding import Weights, rounded
from weights_convert.runtimes import first_line, framework
from weights_convert.tensor import printable, read_float32

if TYPE_CHECKING:
    from vgg_flax.answers.bundle import Bundle

TOLERANCE = 1e-5
PICTURES, BATCH = 8, 16
EXPORTED = {"Functional", "InputLayer", "Normalization", "Conv2D", "MaxPooling2D", "GlobalAveragePooling2D"}
EXPORTED |= {"GlobalMaxPooling2D", "Flatten", "Concatenate", "Dense", "GlorotUniform", "Zeros", "DTypePolicy"}
EXPORTED |= {"__keras_tensor__", "__numpy__"}


@dataclasses.dataclass(frozen=True)
class Verdict:
    """How far two runtimes are apart.

    Attributes:
      runtime: what ran the file.
      largest: difference of a probability, or for files of arrays of a value.
      agree: share of pictures with the same label.
      pictures: how many were compared; 0 where arrays were.
      limit: the largest difference that is allowed.
      rounding: what kernels in fewer bits cost, a line for people; empty for float32.
    """

    runtime: str
    largest: float
    agree: float
    pictures: int
    limit: float = TOLERANCE
    rounding: str = ""

    @property
    def good(self) -> bool:
        """Within the limit."""
        return self.largest <= self.limit


def check(bundle: Bundle, path: Path, name: str, images: np.ndarray | None = None) -> Verdict:
    """Compare. Raises UserError when the file's runtime is missing, with how to install it.

    A file with rounded kernels is compared with our model with the same rounded kernels, as strictly as any other; what
    the rounding itself changes is reported beside it.

    Args:
      name: a key of `writers.FORMATS`.
      images: uint8 RGB [n, size, size, 3]; unset: noise of several brightnesses.
    """
    if name in ("safetensors", "keras-weights", "torchvision"):
        return _arrays(bundle, path, name)
    if name == "hub":
        return _folder(bundle, path)
    from vgg_flax.answers.predictor import Predictor

    images = noise(bundle.spec.image_size) if images is None else images
    try:
        weights = _stored_weights(path) if name == "onnx" else "float32"
        runtime, run = RUNTIMES[name](path)
        found = _in_batches(run, images)
    except UserError:
        raise
    except Exception as error:  # those of runtimes have no common type
        what = f"can't be run as an export of this model: {first_line(error)}"
        raise UserError(f"{path} {what}. Export it again, or give its --format.") from None
    expected = Predictor(rounded(bundle, weights), engine="xla").probabilities(images)
    if found.shape != expected.shape:
        raise UserError(f"{path} gives {found.shape}, expected {expected.shape}. It was made from another model.")
    agree = float((found.argmax(1) == expected.argmax(1)).mean())
    rounding = ""
    if weights != "float32":
        exact = Predictor(bundle, engine="xla").probabilities(images)
        same = (exact.argmax(1) == expected.argmax(1)).mean()
        moved = np.abs(exact - expected).max()
        rounding = f"{weights} kernels move a probability by at most {moved:.1e}; {same:.0%} of the labels stay."
    return Verdict(runtime, float(np.abs(found - expected).max()), agree, len(images), rounding=rounding)


def _in_batches(run: Callable[[np.ndarray], Any], images: np.ndarray) -> np.ndarray:
    """What `run` says of all pictures, a few at a time: block1's maps of one picture of 224 pixels are 13 MB each."""
    return np.concatenate([np.asarray(run(images[i : i + BATCH])) for i in range(0, len(images), BATCH)])


def _stored_weights(path: Path) -> Weights:
    """How the kernels of an ONNX export of ours are stored, according to its metadata."""
    import onnx

    facts = {entry.key: entry.value for entry in onnx.load(str(path), load_external_data=False).metadata_props}
    stored: Any = facts.get("weights", '"float32"').strip('"')
    if stored not in get_args(Weights):
        raise UserError(f"{path} stores its weights as {printable(stored)}. Expected {', '.join(get_args(Weights))}.")
    return stored


def noise(size: int) -> np.ndarray:
    """Pictures that differ in brightness and colour, uint8 [n, size, size, 3]."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (PICTURES, 1, 1, 3))
    return np.clip(base + rng.normal(0, 40, (PICTURES, size, size, 3)), 0, 255).astype(np.uint8)


def _arrays(bundle: Bundle, path: Path, name: str) -> Verdict:
    from weights_convert.convert import plan
    from weights_convert.fold_head import read_head
    from weights_convert.writers.arrays import keras_top

    top = keras_top(bundle) if name == "keras-weights" else {}
    parts = bundle.params if name == "safetensors" else {"backbone": bundle.params["backbone"], "top": top}
    expected = {key: np.asarray(array) for key, array in flatten(parts).items()}
    with open_source(path) as source:
        opened = plan(source, bundle.spec.backbone)
        dense = read_head(opened.source).params if opened.dense else {}
        found = flatten({"backbone": opened.read(), "top": dense})
        found |= {tensor.key: read_float32(path, tensor) for tensor in source.tensors if tensor.key.startswith("head/")}
    if {key: array.shape for key, array in found.items()} != {key: array.shape for key, array in expected.items()}:
        raise UserError(f"{path} has other dense layers than the model. It was made from another model.")
    largest = max(float(np.abs(found[key] - expected[key]).max()) for key in expected)
    return Verdict("our own reader", largest, 1.0, 0)


def _folder(bundle: Bundle, path: Path) -> Verdict:
    """The bundle in a folder, bit for bit, and what is written beside its arrays."""
    from vgg_flax.answers import bundle as bundles
    from weights_convert.writers import published

    found, expected = bundles.load(path / bundles.RECORD), published(bundle)
    for field in ("spec", "classes", "preprocessing", "judge", "training"):
        if repr(getattr(found, field)) != repr(getattr(expected, field)):
            raise UserError(f"{path} holds another model: they differ in {field}. Export it again.")
    ours, largest = flatten(expected.params), 0.0
    for key, array in flatten(found.params).items():
        if array.tobytes() != np.asarray(ours[key]).tobytes():
            largest = max(float(np.abs(array - np.asarray(ours[key])).max()), largest, float(np.finfo("f4").tiny))
    return Verdict("vgg_flax.bundle", largest, 1.0, 0, limit=0.0)


def _onnx(path: Path) -> tuple[str, Callable[[np.ndarray], Any]]:
    onnxruntime = framework("onnxruntime", ", or --no-verify")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return f"onnxruntime {onnxruntime.__version__}", lambda images: session.run(None, {"images": images})[0]


def _only_our_layers(path: Path) -> None:
    """Keras builds what a file names, and a Lambda is code. An export of ours names nothing but these."""
    with open_source(path) as source:
        stack = [source.config]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            name = node.get("class_name")
            if name is not None and name not in EXPORTED:
                what = f"a {printable(name)}, which no export of ours has"
                raise UserError(f"{path} names {what}. It is not loaded. Expected a file that `export` wrote.")
            stack += node.values()
        elif isinstance(node, list):
            stack += node


def _keras(path: Path) -> tuple[str, Callable[[np.ndarray], Any]]:
    keras = framework("keras", ", or --no-verify")
    _only_our_layers(path)
    model: Any = keras.models.load_model(path, compile=False)
    return f"Keras {keras.__version__}", lambda images: model(images.astype(np.float32), training=False)


def _stablehlo(path: Path) -> tuple[str, Callable[[np.ndarray], Any]]:
    import jax

    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    return f"jax.export {jax.__version__}", exported.call


RUNTIMES: dict[str, Callable[[Path], tuple[str, Callable[[np.ndarray], Any]]]] = {
    "onnx": _onnx,
    "keras": _keras,
    "stablehlo": _stablehlo,
}
