"""A whole Keras model, `.keras` or `.h5`, built and saved by Keras itself: RGB 0..255 in, probabilities out."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from vgg_flax.answers.bundle import Bundle
from vgg_flax.network.spec import dense_layers
from weights_convert.runtimes import framework, keras_blocks


def write(bundle: Bundle, path: Path, _: str) -> None:
    """Write the file. Raises UserError when Keras is missing."""
    model = build(bundle)
    logging.getLogger("absl").setLevel(logging.ERROR)  # .h5 is asked for; Keras would advise against it
    model.save(path)


def build(bundle: Bundle) -> Any:
    """The model: preprocessing, backbone, head and calibrated softmax, of Keras's own layers."""
    keras = framework("keras")
    layers: Any = keras.layers
    size = bundle.spec.image_size
    images = keras.Input((size, size, 3), name="images")
    mean, std = bundle.preprocessing.mean, bundle.preprocessing.std
    x = layers.Normalization(mean=mean, variance=np.square(std), name="preprocessing")(images)
    x = _features(layers, bundle, keras_blocks(layers, x, bundle.spec.backbone.blocks))
    for name, out in dense_layers(bundle.spec.head)[:-1]:
        x = layers.Dense(out, activation="relu", name=name)(x)
    classes = len(bundle.classes)
    x = layers.Dense(classes, activation="softmax", dtype="float32", name="predictions")(x)
    model = keras.Model(images, x, name=bundle.spec.backbone.name)
    used = {layer.name for layer in model.layers} - {"standardize"}
    for name, arrays in {**bundle.params["backbone"], **bundle.params["head"]}.items():
        if name in used:  # a head on block 4 leaves block5 out of the graph
            # A softmax of logits / temperature is one of a last layer divided by it.
            by = np.float32(bundle.judge.temperature if name == "predictions" else 1)
            model.get_layer(name).set_weights([np.asarray(arrays[part]) / by for part in ("kernel", "bias")])
    return model


def _features(layers: Any, bundle: Bundle, blocks: list[Any]) -> Any:
    spec = bundle.spec.head
    if spec.flat:
        x = layers.Flatten(name="features")(blocks[-1])
    else:
        kinds = {"average": layers.GlobalAveragePooling2D, "maximum": layers.GlobalMaxPooling2D}
        read = [kinds[pool](name=f"block{i}_{pool}")(blocks[i - 1]) for i in spec.blocks for pool in spec.pools]
        x = read[0] if len(read) == 1 else layers.Concatenate(name="features")(read)
    if spec.standardize:
        mean, std = (np.asarray(bundle.params["head"]["standardize"][key], np.float64) for key in ("mean", "std"))
        x = layers.Normalization(mean=mean, variance=np.square(std), name="standardize")(x)
    return x
