"""A weight file of another framework, run by that framework and by us, stage by stage on the same pictures.

Two faults are told apart. The modelling difference: both networks get the same input numbers, and the outputs of
every block and dense layer are compared. The preprocessing difference: the framework's own preprocessing of a picture
against ours. Source: keras.applications' `preprocess_input`, torchvision's VGG*_Weights.IMAGENET1K_V1.transforms.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from vgg_flax.network.params import Params
from vgg_flax.network.preprocess import normalize
from vgg_flax.network.spec import BackboneSpec, ModelSpec, Preprocessing, dense_layers
from weights_convert import convert, keras_config, runtimes
from weights_convert.fold_head import Head, read_head
from weights_convert.readers import open_source
from weights_convert.rules import CAFFE, TOP_LAYERS, TORCH
from weights_convert.tensor import Source, refuse
from weights_convert.types import Say

TOLERANCE = 1e-4  # of a stage's largest value: two float32 runtimes sum in different orders
PICTURES, SIZE, MAX_SIDE = 4, 64, 1024


@dataclasses.dataclass(frozen=True)
class Stage:
    """How far two runtimes are apart after one stage.

    Attributes:
      kind: `preprocessing` or `modelling`.
      difference: the largest, as a share of the stage's largest value.
    """

    name: str
    kind: str
    difference: float

    @property
    def good(self) -> bool:
        """Within the tolerance."""
        return self.difference <= TOLERANCE


def compare(
    path: Path, photos: Callable[[int], np.ndarray] | None = None, dialect: str = "auto", say: Say = lambda line: None
) -> tuple[str, list[Stage]]:
    """(runtime, its stages in order).

    Args:
      photos: gives uint8 RGB [n, size, size, 3] of the size that the file's dense layers or its graph ask for; unset:
        noise.
      dialect: as in `convert.plan`.
      say: called with the line that tells why this dialect.

    Raises:
      UserError: no runtime runs such a file, or it is not installed.
      WeightFileError: the file can't be imported.
    """
    from weights_convert.verify import noise

    with open_source(path) as source:
        plan = convert.plan(source, dialect=dialect)
        say(plan.why)
        backbone, head = plan.read(), _head(source, plan)
        size = _size(source, plan, head)
        images = photos(size) if photos else noise(size)[:PICTURES]
        mean, std = plan.mean, plan.std
        inputs = np.asarray(normalize(images, Preprocessing(images.shape[1], mean, std)))
        theirs = inputs[..., ::-1] if plan.bgr else inputs
        runner = runtimes.choose(source, plan)
        prepares = source.whole and (head is not None or source.format.startswith("Keras"))
        expected = _ours(plan, backbone, head, theirs)
    name, found = runner(source.path, plan, np.ascontiguousarray(theirs))  # the file is closed: HDF5 locks it
    stages = []
    if not prepares and (plan.mean, plan.std) in (CAFFE, TORCH):  # a whole model's own preprocessing is not in its file
        stages.append(Stage("input", "preprocessing", difference(runtimes.published(plan, images), theirs)))
    for stage, values in expected.items():
        if stage in found:
            stages.append(Stage(stage, "modelling", difference(found[stage], values)))
    return name, stages


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, as a share of the largest value; infinite for unequal shapes and for NaN."""
    if one.shape != other.shape or not np.isfinite(one).all():
        return math.inf
    return float(np.abs(one - other).max() / max(float(np.abs(one).max()), 1e-30))


def _head(source: Source, plan: convert.Plan) -> Head | None:
    """The dense layers of the file: the original top, or a whole model's own."""
    return read_head(plan.source) if plan.dense and (source.whole or plan.dense == TOP_LAYERS) else None


def _size(source: Source, plan: convert.Plan, head: Head | None) -> int:
    """Side of the pictures to compare on: what the file declares, or what its dense layers were made for."""
    declared = keras_config.read(source.path, source.config).image_size if source.whole else None
    if declared and not 32 <= declared <= MAX_SIDE:
        refuse(source.path, f"takes pictures of {declared} pixels. Expected 32 to {MAX_SIDE}.")
    if declared or head is None or not head.spec.flat:
        return declared or SIZE
    return math.isqrt(head.inputs // plan.blocks[-1][-1]) * 2 ** len(plan.blocks)


def _ours(plan: convert.Plan, backbone: Params, head: Head | None, inputs: np.ndarray) -> dict[str, np.ndarray]:
    """{stage: output} of our own network on the file's inputs [n, size, size, 3], full float32 precision."""
    import jax

    from vgg_flax.network.model import bind_backbone, bind_head, read_blocks

    if head:
        inside = head.inside
        scale, offset = (np.asarray(values, np.float32) for values in (inside.scale, inside.offset))
        inputs = inputs[..., inside.order] * scale + offset
    inputs = inputs[..., ::-1] if plan.bgr else inputs
    spec = BackboneSpec(plan.model, plan.blocks)
    with jax.default_matmul_precision("float32"):
        blocks = jax.jit(lambda params, x: bind_backbone(spec, "float32", params)(x))(backbone, inputs)
        found = {name: np.asarray(value) for name, value in blocks.items()}
        if not head:
            return found
        features = read_blocks(blocks, head.spec)
        for i, (name, width) in enumerate(dense_layers(head.spec)):
            # The head as far as this layer, which then is its last.
            part = dataclasses.replace(head.spec, classes=width, hidden=head.spec.hidden[:i])
            names = ("standardize", *(f"fc{k}" for k in range(1, i + 1)))
            kept = {key: head.params[key] for key in names if key in head.params}
            layers = bind_head(ModelSpec(spec, part, inputs.shape[1]), {**kept, "predictions": head.params[name]})
            found["logits" if name == "predictions" else name] = np.asarray(layers(features))
    found |= {name: np.maximum(value, 0) for name, value in found.items() if name.startswith("fc")}
    return {**found, "probabilities": np.asarray(jax.nn.softmax(found["logits"]))}
