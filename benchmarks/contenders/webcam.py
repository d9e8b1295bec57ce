"""A frame from the camera to its label, through the same functions as webcam.py."""

from __future__ import annotations

import dataclasses
import time

import jax
import numpy as np

from vgg_flax.answers.bundle import Bundle
from vgg_flax.answers.predictor import Predictor
from vgg_flax.live.capture import Frame
from vgg_flax.live.progress import Stopwatch
from vgg_flax.live.result import label
from vgg_flax.network import model
from vgg_flax.network.spec import VGG16, HeadSpec, ModelSpec, Preprocessing


class Contender:
    def __init__(self, engine: str):
        self._engine = engine
        self.versions = {"jax": jax.__version__, "engine": engine}

    def prepare(self, case: dict) -> np.ndarray:
        spec = ModelSpec(VGG16, HeadSpec(2), case["size"])
        key = jax.random.key(0)
        backbone = jax.tree.map(np.asarray, model.init_backbone(VGG16, key))
        params = {"backbone": backbone, "head": model.init_head(spec, key)}
        bundle = Bundle(spec, params, ("a", "b"), Preprocessing(case["size"]))
        self._predictor = Predictor(bundle, engine=self._engine)
        picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
        self._frame, self._watch = Frame(0, picture, 0.0, 0.0), Stopwatch()
        return label(self._frame, self._predictor, self._watch).prediction.probabilities

    def run(self) -> None:
        label(dataclasses.replace(self._frame, captured=time.monotonic()), self._predictor, self._watch)
