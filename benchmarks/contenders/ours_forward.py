"""vgg_flax's frozen backbone: its Winograd kernel, or XLA's own convolution."""

from __future__ import annotations

import jax
import numpy as np

from benchmarks import networks
from vgg_flax.network import winograd
from vgg_flax.network.model import bind_backbone
from vgg_flax.network.params import unflatten
from vgg_flax.network.spec import BACKBONES


class Contender:
    def __init__(self, engine: str):
        self.engine = engine
        self.versions = {"jax": jax.__version__, "engine": engine}
        if engine == "winograd":
            winograd.load(say=lambda line: None)

    def prepare(self, case: dict) -> np.ndarray:
        backbone = unflatten(networks.weights(case["model"]))
        self._images = jax.device_put(networks.images(case["batch"], case["size"]))
        if self.engine == "winograd":
            self._params = winograd.pack(backbone)
            self._forward = jax.jit(lambda params, images: winograd.features(params, images, ("block5",))["block5"])
        else:
            spec = BACKBONES[case["model"]]
            self._params = jax.device_put(backbone)
            self._forward = jax.jit(lambda params, images: bind_backbone(spec, "float32", params)(images)["block5"])
        return self.run()[0].mean((0, 1))

    def run(self) -> np.ndarray:
        return np.asarray(self._forward(self._params, self._images))
