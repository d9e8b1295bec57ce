"""A trained model at work: pictures in, labels with probabilities out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vgg_flax import bundle as bundles
from vgg_flax import features
from vgg_flax.config import UserError
from vgg_flax.model import ModelSpec, bind_head
from vgg_flax.params import Params
from vgg_flax.preprocess import load_image, prepare_frame


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says of one picture. `probabilities` is float32 `[classes]`, in the order of the classes."""

    label: str
    probability: float
    probabilities: np.ndarray


class Predictor:
    """Loads a bundle once and classifies pictures with it.

    Batches run in one compiled shape each, so keep to one batch size; a webcam's is 1.
    """

    def __init__(self, bundle: bundles.Bundle, name: str = "model", engine: str = "auto"):
        self.name = name
        self.classes = bundle.classes
        self.preprocessing = bundle.preprocessing
        self._bundle = bundle
        self._extractor = features.Extractor(bundle.spec, bundle.params["backbone"], bundle.preprocessing, engine)
        self._head = jax.device_put(bundle.params["head"])

    @classmethod
    def load(cls, path: str | Path, engine: str = "auto") -> Predictor:
        """From a run folder or a bundle folder. Raises UserError when there is no usable model in it."""
        folder = bundles.find(Path(path))
        name = folder.resolve().parent.name if folder.name == "model" else folder.resolve().name
        return cls(bundles.load(folder), name, engine)

    def predict(self, images: np.ndarray) -> list[Prediction]:
        """uint8 RGB `[n, size, size, 3]`, as `preprocess.resize` makes them -> n predictions."""
        return [self._prediction(row) for row in self.probabilities(images)]

    def predict_frame(self, frame: np.ndarray) -> Prediction:
        """A camera frame, uint8 BGR `[height, width, 3]`."""
        return self.predict(prepare_frame(frame, self.preprocessing)[None])[0]

    def predict_file(self, path: str | Path) -> Prediction:
        """A picture file. Raises BadImage."""
        return self.predict(load_image(path, self.preprocessing)[None])[0]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 RGB `[n, size, size, 3]` -> float32 `[n, classes]`; each row sums to 1."""
        rows = self._extractor(images)
        return np.asarray(_softmax(self._bundle.spec, self._head, rows, self._bundle.temperature))

    def _prediction(self, probabilities: np.ndarray) -> Prediction:
        best = int(probabilities.argmax())
        return Prediction(self.classes[best], float(probabilities[best]), probabilities)


@jax.jit(static_argnums=0)
def _softmax(spec: ModelSpec, head: Params, rows: jax.Array, temperature: float) -> jax.Array:
    return jax.nn.softmax(bind_head(spec, head)(rows) / jnp.float32(temperature))


def newest_run(project: Path = Path("runs")) -> Path:
    """The run that finished last. Raises UserError when there is none."""
    finished = [path.parents[1] for path in project.glob(f"*/model/{bundles.RECORD}")]
    if not finished:
        raise UserError(f"no finished run in {project}: train one with `python train.py`, or name one with --model.")
    return max(finished, key=lambda run: (run / "model" / bundles.RECORD).stat().st_mtime)
