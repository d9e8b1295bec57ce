"""A training step of VGG16's block5 and a linear head on its average, blocks 1 to 4 frozen.

Ours gathers its batch from stored outputs of block4, as train.py does, and has made those before; Keras's goes through
the whole network, as it must where nothing is stored. Each starts from the same weights and pictures.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

from benchmarks import networks
from vgg_flax.network.spec import CUTS, VGG16, HeadSpec, ModelSpec

CLASSES, LR = 2, 1e-5
TRAINED = ("block5_conv1", "block5_conv2", "block5_conv3", "predictions")


def head() -> dict[str, np.ndarray]:
    """A head that is not at its start, so that gradients are of an ordinary size."""
    kernel = 0.01 * np.random.default_rng(2).standard_normal((512, CLASSES), np.float32)
    return {"kernel": kernel, "bias": np.zeros(CLASSES, np.float32)}


class Contender:
    """`who` is ours or keras. The sample is the logits of the pictures before any step."""

    def __init__(self, who: str):
        self._prepare = {"ours": self._ours, "keras": self._keras}[who]
        libraries = ("jax",) if who == "ours" else ("keras", os.environ["KERAS_BACKEND"])
        self.versions = {name: importlib.import_module(name).__version__ for name in libraries}

    def prepare(self, case: dict) -> np.ndarray:
        images = networks.images(case["batch"], case["size"])
        self.run, sample = self._prepare(images, np.arange(case["batch"], dtype=np.int32) % CLASSES)
        return sample.ravel()

    def _ours(self, images: np.ndarray, labels: np.ndarray) -> tuple[Any, np.ndarray]:
        import jax

        from vgg_flax.network import model, params
        from vgg_flax.training.feed import Batches, plan_epoch
        from vgg_flax.training.task import Recipe, Task, network_logits

        spec = ModelSpec(VGG16, HeadSpec(CLASSES, (5,), ("average",), standardize=False), images.shape[1])
        backbone = params.unflatten(networks.weights("vgg16"))
        network = {"backbone": backbone, "head": {"predictions": head()}}
        maps = np.asarray(jax.jit(lambda p, x: model.bind_backbone(VGG16, "float32", p)(x)["block4"])(backbone, images))
        sample = np.asarray(network_logits(spec, "block4", network, maps))
        task = Task(spec, CUTS["block5"], Recipe(1_000_000, LR))
        (state, frozen), key = task.init(network), jax.random.key(0)
        plan = plan_epoch(len(labels), len(labels), 1, 0, 0)

        def run() -> None:
            nonlocal state
            batch = Batches(maps[plan.indices], labels[plan.indices], plan.weights)
            state, sums = task.step(state, frozen, batch, key)
            float(sums["loss"])

        return run, sample

    def _keras(self, images: np.ndarray, labels: np.ndarray) -> tuple[Any, np.ndarray]:
        keras = importlib.import_module("keras")
        backbone = keras.applications.VGG16(weights=None, include_top=False, input_shape=images.shape[1:])
        pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
        model = keras.Model(backbone.input, keras.layers.Dense(CLASSES, name="predictions")(pooled))
        values = networks.weights("vgg16") | {f"predictions/{name}": value for name, value in head().items()}
        for layer in model.layers:
            layer.trainable = layer.name in TRAINED
            if layer.weights:
                layer.set_weights([values[f"{layer.name}/kernel"], values[f"{layer.name}/bias"]])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(LR), loss, metrics=["accuracy"])
        sample = np.asarray(model.predict_on_batch(images))
        return lambda: model.train_on_batch(images, labels), sample
