"""Random views of a batch: ours in one jitted call, Keras's generator, Keras's layers."""

from __future__ import annotations

import hashlib
import importlib
from typing import Any

import numpy as np


class Contender:
    """`who` is ours, generator or layers. Rotation, shift, zoom, mirror; ours and the layers change colours too."""

    def __init__(self, who: str):
        self._prepare = {"ours": self._ours, "generator": self._generator, "layers": self._layers}[who]
        self.versions: dict[str, str] = {}

    def prepare(self, case: dict) -> list[float]:
        shape = (case["batch"], case["size"], case["size"], 3)
        self.run: Any = self._prepare(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
        self.run()
        return []

    def _ours(self, images: np.ndarray) -> Any:
        from vgg_flax.network import augment
        from vgg_flax.settings import AugmentSettings

        config = AugmentSettings(flip=True)
        contents = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in images])
        return lambda: augment.augment(images, augment.view_keys(0, 1, contents), config).block_until_ready()

    def _generator(self, images: np.ndarray) -> Any:
        image = importlib.import_module("keras.src.legacy.preprocessing.image")
        moves = {"rotation_range": 10, "width_shift_range": 0.05, "height_shift_range": 0.05, "zoom_range": 0.1}
        flow = image.ImageDataGenerator(**moves, horizontal_flip=True).flow(images, batch_size=len(images))
        return lambda: flow[0]

    def _layers(self, images: np.ndarray) -> Any:
        layers = importlib.import_module("keras").layers
        model = importlib.import_module("keras").Sequential(
            [
                layers.RandomFlip("horizontal"),
                layers.RandomRotation(10 / 360, fill_mode="nearest"),
                layers.RandomTranslation(0.05, 0.05, fill_mode="nearest"),
                layers.RandomZoom(0.1, fill_mode="nearest"),
                layers.RandomContrast(0.1, value_range=(0, 255)),
                layers.RandomBrightness(0.1, value_range=(0, 255)),
            ]
        )
        floats = images.astype(np.float32)
        if importlib.import_module("keras").backend.backend() == "tensorflow":  # as in a tf.data pipeline
            compiled = importlib.import_module("tensorflow").function(lambda x: model(x, training=True))
            return lambda: compiled(floats).numpy()
        return lambda: np.asarray(model(floats, training=True))
