"""Weight files in other frameworks' formats, small, for the tests of weights_convert. Holds no tests itself."""

import os

os.environ.setdefault("KERAS_BACKEND", "jax")

from pathlib import Path

import h5py
import numpy as np

from vgg_flax.network.spec import BackboneSpec
from weights_convert import convert, readers
from weights_convert.fold_head import read_head
from weights_convert.rules import TOP_LAYERS

# Keras 3.15's variables lack the `copy` keyword that NumPy 2 asks __array__ for.
KERAS_NOISE = (
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning",
    "ignore:Explicitly requested dtype int64:UserWarning",  # its seeds, from jax 0.12 on
)
SMALL16 = BackboneSpec("vgg16", ((4, 4), (4, 4), (5, 5, 5), (6, 6, 6), (6, 6, 6)))
SMALL19 = BackboneSpec("vgg19", ((4, 4), (4, 4), (5,) * 4, (6,) * 4, (6,) * 4))
SPECS = {"vgg16": SMALL16, "vgg19": SMALL19}


def conv_shapes(spec):
    """[(layer, kernel shape)] in order."""
    channels, shapes = 3, []
    for i, block in enumerate(spec.blocks, 1):
        for j, out in enumerate(block, 1):
            shapes.append((f"block{i}_conv{j}", (3, 3, channels, out)))
            channels = out
    return shapes


def random_backbone(spec, seed=0):
    """{layer: (kernel HWIO, bias)} in the order of the layers; every value differs, so that no mix-up hides."""
    rng = np.random.default_rng(seed)
    return {
        layer: (rng.normal(size=shape).astype("f4") * 0.3, rng.normal(size=shape[3]).astype("f4"))
        for layer, shape in conv_shapes(spec)
    }


def random_top(spec, seed=1, size=32, hidden=7, classes=3):
    """The three dense layers for a picture of this size."""
    rng = np.random.default_rng(seed)
    inputs = (size // 32) ** 2 * spec.blocks[-1][-1]
    top = {}
    for layer, out in (("fc1", hidden), ("fc2", hidden), ("predictions", classes)):
        top[layer] = (rng.normal(size=(inputs, out)).astype("f4"), rng.normal(size=out).astype("f4"))
        inputs = out
    return top


def expected_backbone(arrays):
    """What an import of a Keras backbone must give, bit for bit: the same with the first kernel's input flipped."""
    backbone = {layer: {"kernel": kernel, "bias": bias} for layer, (kernel, bias) in arrays.items()}
    first = backbone["block1_conv1"]
    return {**backbone, "block1_conv1": {**first, "kernel": first["kernel"][:, :, ::-1]}}


def assert_same(found, expected):
    """The same layers with the same bits."""
    assert found.keys() == expected.keys()
    for layer in expected:
        for part in ("kernel", "bias"):
            assert found[layer][part].dtype == np.float32
            np.testing.assert_array_equal(found[layer][part], expected[layer][part], err_msg=f"{layer}/{part}")


def write_keras_h5(path, layers, spelling="keras2", where="", attributes=None):
    """A legacy weights file by hand, as a given version of Keras spells its names.

    Args:
      layers: {layer: (kernel, bias)}.
      spelling: keras1, official, keras2 or keras3.
      where: group of the weights, `model_weights` in a whole model.
    """
    spellings = {
        "keras1": ("{0}_W", "{0}_b"),
        "official": ("{0}_W_1:0", "{0}_b_1:0"),
        "keras2": ("{0}/kernel:0", "{0}/bias:0"),
        "keras3": ("{0}/kernel", "{0}/bias"),
    }
    with h5py.File(path, "w") as file:
        group = file.require_group(where) if where else file
        for key, value in (attributes or {}).items():
            group.attrs[key] = value
        group.attrs["layer_names"] = np.array(["input_1", *layers], "S")
        group.create_group("input_1").attrs["weight_names"] = np.zeros(0)
        for layer, arrays in layers.items():
            names = [name.format(layer) for name in spellings[spelling]]
            group.create_group(layer).attrs["weight_names"] = np.array(names, "S")
            for name, array in zip(names, arrays, strict=True):
                group[f"{layer}/{name}"] = array
    return Path(path)


def keras_backbone(spec, size=32, name=None):
    """The convolutions as a Keras model with random weights, built apart from our own code."""
    import keras

    inputs = keras.Input((size, size, 3))
    x = inputs
    for i, block in enumerate(spec.blocks, 1):
        for j, out in enumerate(block, 1):
            layer = f"block{i}_conv{j}"
            x = keras.layers.Conv2D(out, 3, padding="same", activation="relu", name=layer)(x)
        x = keras.layers.MaxPooling2D(2, name=f"block{i}_pool")(x)
    model = keras.Model(inputs, x, name=name or spec.name)
    for layer, arrays in random_backbone(spec).items():
        model.get_layer(layer).set_weights(arrays)
    return model


def keras_network(layers, spec, size, nested=False):
    """A Keras model of these layers, {name: (kernel, bias)} in order: the backbone, Flatten, and dense layers.

    Args:
      nested: the backbone is a model in the model.
    """
    import keras

    names = iter(layers)
    convs = [keras.Input((size, size, 3))]
    for i, block in enumerate(spec.blocks, 1):
        convs += [keras.layers.Conv2D(n, 3, padding="same", activation="relu", name=next(names)) for n in block]
        convs.append(keras.layers.MaxPooling2D(2, name=f"block{i}_pool"))
    dense = list(names)
    head = [keras.layers.Flatten(name="flatten")] if dense else []
    for name in dense:
        activation = "softmax" if name == dense[-1] else "relu"
        head.append(keras.layers.Dense(layers[name][1].size, activation=activation, name=name))
    base = keras.Sequential(convs, name=spec.name) if nested else None
    model = keras.Sequential([keras.Input((size, size, 3)), base, *head] if nested else [*convs, *head])
    for name, arrays in layers.items():
        (base if base and name not in dense else model).get_layer(name).set_weights(arrays)
    return model


def read_top(path, spec=SMALL16):
    """The three layers on top that a file holds, {} where it has none."""
    with readers.open_source(path) as source:
        plan = convert.plan(source, spec)
        return read_head(plan.source).params if plan.dense == TOP_LAYERS else {}
