"""StableHLO by `jax.export`: runs with JAX alone, on CPUs and NVIDIA GPUs, for any number of pictures.

To use it: `jax.export.deserialize(bytearray(Path(file).read_bytes())).call(images)`.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp

from vgg_flax.answers.bundle import Bundle
from vgg_flax.network.model import bind
from vgg_flax.network.preprocess import normalize

PLATFORMS = ("cpu", "cuda")
NO_FOLDERS = "jax_hlo_source_file_canonicalization_regex"  # the file names each source file, but not where it lies


def write(bundle: Bundle, path: Path, _: str) -> None:
    """Write the file: the compiled function with the parameters inside."""

    def probabilities(images: jax.Array) -> jax.Array:
        model = bind(bundle.spec, bundle.params)
        logits = model.classify(model.features(normalize(images, bundle.preprocessing)))
        return jax.nn.softmax(logits / jnp.float32(bundle.judge.temperature))

    size = bundle.spec.image_size
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    before = getattr(jax.config, NO_FOLDERS)
    jax.config.update(NO_FOLDERS, r".*[/\\]")
    try:
        exported = jax.export.export(jax.jit(probabilities), platforms=PLATFORMS)(images)
    finally:
        jax.config.update(NO_FOLDERS, before)
    path.write_bytes(exported.serialize())
