"""A trained model at work: pictures in, labels with probabilities out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from vgg_flax.answers import bundle as bundles
from vgg_flax.console import say
from vgg_flax.data.decode import load_image
from vgg_flax.errors import UserError
from vgg_flax.network.extract import Extractor, batch_size
from vgg_flax.network.model import bind_head, read_stored
from vgg_flax.network.params import Params
from vgg_flax.network.spec import CUTS, ModelSpec


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says of one picture. `probabilities` is float32 `[classes]`, in the order of the classes."""

    label: str
    probability: float
    probabilities: np.ndarray


class Predictor:
    """Loads a bundle once and classifies pictures with it."""

    def __init__(
        self,
        bundle: bundles.Bundle,
        name: str = "model",
        engine: str = "auto",
        say: Callable[[str], object] = say,
    ):
        self.name, self.bundle = name, bundle
        self.classes, self.preprocessing = bundle.classes, bundle.preprocessing
        self._output = CUTS["none"].stored(bundle.spec.head)
        self._extract = Extractor(
            bundle.spec.backbone,
            bundle.params["backbone"],
            bundle.preprocessing,
            engine=engine,
            precision=bundle.spec.precision,
            outputs=(self._output,),
            say=say,
        )
        self._head = jax.device_put(bundle.params["head"])

    @classmethod
    def load(cls, path: str | Path, engine: str = "auto", say: Callable[[str], object] = say) -> Predictor:
        """From a run folder or a bundle folder. Raises UserError when there is no usable model in it."""
        folder = bundles.find(Path(path))
        name = folder.resolve().parent.name if folder.name == "model" else folder.resolve().name
        return cls(bundles.load(folder), name, engine, say)

    def predict(self, images: np.ndarray) -> list[Prediction]:
        """uint8 RGB `[n, size, size, 3]`, as `preprocess.resize` makes them -> n predictions."""
        return [self._prediction(row) for row in self.probabilities(images)]

    def predict_file(self, path: str | Path) -> Prediction:
        """A picture file. Raises BadImage."""
        return self.predict(load_image(path, self.preprocessing)[None])[0]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 RGB `[n, size, size, 3]`, any n -> float32 `[n, classes]`; each row sums to 1. Raises as `logits`."""
        return self.bundle.judge.probabilities(self.logits(images))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """uint8 RGB `[n, size, size, 3]`, any n -> float32 `[n, classes]`. Raises ValueError for any other array."""
        size = self.preprocessing.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images are {images.dtype}{list(images.shape)}, expected uint8[n, {size}, {size}, 3].")
        most, parts = batch_size(size), [np.empty((0, len(self.classes)), np.float32)]
        for start in range(0, len(images), most):
            some = images[start : start + most]
            padded = np.resize(some, (_compiled_size(len(some), most), *some.shape[1:]))
            stored = self._extract(padded)[self._output]
            parts.append(np.asarray(_logits(self.bundle.spec, self._output, self._head, stored))[: len(some)])
        return np.concatenate(parts)

    def _prediction(self, probabilities: np.ndarray) -> Prediction:
        best = int(probabilities.argmax())
        return Prediction(self.classes[best], float(probabilities[best]), probabilities)


def _compiled_size(count: int, most: int) -> int:
    """The batch that `count` pictures travel in: a power of two, so that any number needs few programs."""
    return min(most, 1 << (count - 1).bit_length())


@jax.jit(static_argnums=(0, 1))
def _logits(spec: ModelSpec, what: str, head: Params, stored: jax.Array) -> jax.Array:
    return bind_head(spec, head)(read_stored(spec, what, {}, stored))


def newest_run(project: Path = Path("runs")) -> Path:
    """The run that finished last. Raises UserError when there is none."""
    finished = [path.parents[1] for path in project.glob(f"*/model/{bundles.RECORD}")]
    if not finished:
        raise UserError(f"no finished run in {project}: train one with `vgg-flax train`, or name one with --model.")
    return max(finished, key=lambda run: (run / "model" / bundles.RECORD).stat().st_mtime)
