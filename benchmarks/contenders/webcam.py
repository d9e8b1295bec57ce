"""A frame from the camera to its label, through the same functions as a live view."""

from __future__ import annotations

import jax
import numpy as np

from vgg_flax.answers.bundle import Bundle
from vgg_flax.answers.judge import Judge, with_references
from vgg_flax.answers.predictor import Prediction, Predictor
from vgg_flax.network import model
from vgg_flax.network.preprocess import prepare_frame
from vgg_flax.network.spec import VGG16, HeadSpec, ModelSpec, Preprocessing

REFERENCES = 1000  # training photos that the judge knows


def predictor(size: int, engine: str) -> Predictor:
    """VGG16 with random weights, two classes, and a judge that compares with a thousand photos."""
    spec, rng = ModelSpec(VGG16, HeadSpec(2), size), np.random.default_rng(0)
    key = jax.random.key(0)
    backbone = jax.tree.map(np.asarray, model.init_backbone(VGG16, key))
    params = {"backbone": backbone, "head": model.init_head(spec, key)}
    averages, labels = rng.random((REFERENCES, 512), np.float32), np.zeros(REFERENCES, np.int64)
    judge = with_references(Judge(), averages, labels, [str(i) for i in range(REFERENCES)])
    return Predictor(Bundle(spec, params, ("a", "b"), Preprocessing(size), judge), engine=engine, maps=True)


def label(frame: np.ndarray, predictor: Predictor) -> Prediction:
    """What is said of uint8 BGR `[height, width, 3]`."""
    return predictor.predict(prepare_frame(frame, predictor.preprocessing)[None])[0]


class Contender:
    def __init__(self, engine: str):
        self._engine = engine
        self.versions = {"jax": jax.__version__, "engine": engine}

    def prepare(self, case: dict) -> np.ndarray:
        self._predictor = predictor(case["size"], self._engine)
        self._frame = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
        return label(self._frame, self._predictor).probabilities

    def run(self) -> None:
        label(self._frame, self._predictor)
