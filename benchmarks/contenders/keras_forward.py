"""Keras on the backend that KERAS_BACKEND names; its weights come from no download."""

from __future__ import annotations

import importlib
import os

import numpy as np

from benchmarks import networks

keras = importlib.import_module("keras")


class Contender:
    def __init__(self):
        backend = keras.backend.backend()
        self.versions = {"keras": keras.__version__, backend: _version(backend)}
        if backend == "tensorflow":
            self.versions["oneDNN"] = os.environ.get("TF_ENABLE_ONEDNN_OPTS", "default")

    def prepare(self, case: dict) -> np.ndarray:
        build = {"vgg16": keras.applications.VGG16, "vgg19": keras.applications.VGG19}[case["model"]]
        self._model = build(weights=None, include_top=False, input_shape=(case["size"], case["size"], 3))
        values = networks.weights(case["model"])
        for name, *_ in networks.layers(case["model"]):
            self._model.get_layer(name).set_weights([values[f"{name}/kernel"], values[f"{name}/bias"]])
        self._images = networks.images(case["batch"], case["size"])
        return self.run()[0].mean((0, 1))

    def run(self) -> np.ndarray:
        return np.asarray(self._model.predict_on_batch(self._images))


def _version(backend: str) -> str:
    return importlib.import_module(backend).__version__
