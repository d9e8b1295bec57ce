"""vgg_flax on a GPU: bfloat16 features, and training steps of the whole network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vgg_flax.network import model, params
from vgg_flax.network.extract import Extractor
from vgg_flax.network.preprocess import normalize
from vgg_flax.network.spec import CUTS, VGG16, HeadSpec, ModelSpec, Preprocessing
from vgg_flax.training.feed import Batches
from vgg_flax.training.task import Recipe, Task


class Contender:
    def __init__(self):
        if jax.default_backend() == "cpu":
            raise RuntimeError("JAX finds no GPU: install jax[cuda13]")
        self.versions = {"jax": jax.__version__, "device": jax.devices()[0].device_kind}

    def prepare(self, case: dict) -> list[float]:
        spec = ModelSpec(VGG16, HeadSpec(2, standardize=False), 224, "bfloat16")
        key, preprocessing = jax.random.key(0), Preprocessing(224)
        pictures = np.random.default_rng(0).integers(0, 256, (case["batch"], 224, 224, 3), np.uint8)
        images, backbone = jax.device_put(pictures), model.init_backbone(VGG16, key)
        if case["what"] == "features":
            weights = jax.tree.map(np.asarray, backbone)
            extractor = Extractor(VGG16, weights, preprocessing, engine="xla", precision="bfloat16")
            self.run = lambda: extractor(images)["pooled"].block_until_ready()
        else:
            self._start(spec, preprocessing, {"backbone": backbone, "head": model.init_head(spec, key)}, images)
        self.run()
        return []

    def _start(self, spec: ModelSpec, preprocessing: Preprocessing, network: params.Params, images: jax.Array):
        task = Task(spec, CUTS["all"], Recipe(1_000_000, 1e-5, 1e-2))
        self._state, frozen = task.init(network)
        ones = jnp.ones((1, len(images)), jnp.float32)
        batch = Batches(normalize(images, preprocessing)[None], ones.astype(jnp.int32), ones)

        def run() -> None:
            self._state, sums = task.step(self._state, frozen, batch, jax.random.key(0))
            sums["loss"].block_until_ready()

        self.run = run
