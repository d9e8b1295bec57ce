"""Keras's HDF5 files come in bit for bit, whoever wrote them and wherever in them the VGG hides."""

import keras
import numpy as np
import pytest
from test_convert_files import (
    KERAS_NOISE,
    SMALL16,
    SPECS,
    assert_same,
    expected_backbone,
    keras_backbone,
    random_backbone,
    random_top,
    read_top,
    write_keras_h5,
)

import weights_convert
from vgg_flax.errors import UserError

pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)


def load(path, spec=SMALL16, said=None):
    return weights_convert.load(str(path), spec, say=(said if said is not None else []).append)


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
@pytest.mark.parametrize("spelling", ["keras1", "official", "keras2", "keras3"])
def test_weights_file_of_every_keras_version(tmp_path, model, spelling):
    arrays, top = random_backbone(SPECS[model]), random_top(SPECS[model])
    path = write_keras_h5(tmp_path / "w.h5", {**arrays, **top}, spelling)
    weights = load(path, SPECS[model])
    assert_same(weights.backbone, expected_backbone(arrays))
    assert_same(
        read_top(path, SPECS[model]), {layer: dict(zip(("kernel", "bias"), top[layer], strict=True)) for layer in top}
    )
    assert weights.preprocessing.mean == (123.68, 116.779, 103.939)
    assert weights.preprocessing.std == (1, 1, 1)


def test_no_top_file_has_no_top(tmp_path):
    path = write_keras_h5(tmp_path / "w.h5", random_backbone(SMALL16))
    assert read_top(path) == {} and not load(path).random


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5"])
def test_files_written_by_keras_itself(tmp_path, suffix):
    model = keras_backbone(SMALL16)
    path = tmp_path / f"vgg{suffix}"
    model.save_weights(path) if suffix == ".weights.h5" else model.save(path)
    assert_same(load(path).backbone, expected_backbone(random_backbone(SMALL16)))


class Network(keras.Model):
    """A VGG with a head, as a class with `call`."""

    def __init__(self):
        super().__init__()
        self.backbone, self.top = keras_backbone(SMALL16, 64), keras.layers.Dense(2)

    def call(self, inputs):
        return self.top(keras.ops.mean(self.backbone(inputs), (1, 2)))


def test_weights_of_a_network_with_call(tmp_path):
    """Their folders are called by its attributes."""
    network = Network()
    network(np.zeros((1, 64, 64, 3)))
    network.save_weights(tmp_path / "w.weights.h5")
    assert_same(load(tmp_path / "w.weights.h5").backbone, expected_backbone(random_backbone(SMALL16)))


def whole_models():
    """Every way to put a VGG into a model of one's own."""

    def nested(base):
        return keras.Sequential([keras.Input((32, 32, 3)), base, *head()])

    def functional(base):
        inputs = keras.Input((32, 32, 3))
        x = base(keras.layers.Rescaling(1 / 255)(inputs))
        for layer in head():
            x = layer(x)
        return keras.Model(inputs, x)

    def flat(base):
        return keras.Sequential([keras.Input((32, 32, 3)), *base.layers[1:], *head()])

    def partly_frozen(base):
        # Keras then lists block5 first, as the trainable part: reading by position would mix up the layers.
        for layer in base.layers:
            layer.trainable = layer.name.startswith("block5")
        return nested(base)

    return [nested, functional, flat, partly_frozen]


def head():
    dense = keras.layers.Dense
    return [
        keras.layers.Flatten(),
        dense(8, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
        dense(2, activation="softmax"),
    ]


@pytest.mark.parametrize("build", whole_models(), ids=lambda build: build.__name__)
@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
def test_vgg_inside_a_trained_whole_model(tmp_path, build, suffix):
    model = build(keras_backbone(SMALL16))
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)  # an optimiser's state, to be left out
    base = next((layer for layer in model.layers if layer.name == "vgg16"), model)
    arrays = {name: tuple(base.get_layer(name).get_weights()) for name in random_backbone(SMALL16)}
    path = tmp_path / f"model{suffix}"
    model.save(path) if suffix == ".h5" else model.save_weights(path)
    said = []
    weights = load(path, said=said)
    assert_same(weights.backbone, expected_backbone(arrays))
    assert read_top(path) == {} and "left out" in said[0]


def test_layers_without_names_are_taken_in_their_order(tmp_path):
    # conv2d_2 sorts after conv2d_10 as text; reading in that order would swap equal shapes without a word.
    arrays = random_backbone(SMALL16)
    names = ["conv2d", *(f"conv2d_{i}" for i in range(1, 13))]
    shuffled = sorted(zip(names, arrays.values(), strict=True))
    path = write_keras_h5(tmp_path / "w.h5", dict(shuffled))
    assert_same(load(path).backbone, expected_backbone(arrays))


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_other_float_types_become_float32(tmp_path, dtype):
    arrays = {k: tuple(a.astype("f2").astype(dtype) for a in v) for k, v in random_backbone(SMALL16).items()}
    path = write_keras_h5(tmp_path / "w.h5", arrays)
    assert_same(load(path).backbone, expected_backbone({k: tuple(map(np.float32, v)) for k, v in arrays.items()}))


def test_compressed_data_comes_in(tmp_path):
    import h5py

    arrays = random_backbone(SMALL16)
    path = write_keras_h5(tmp_path / "w.h5", arrays)
    with h5py.File(path, "r+") as file:
        for layer, (kernel, _) in arrays.items():
            del file[f"{layer}/{layer}/kernel:0"]
            file.create_dataset(
                f"{layer}/{layer}/kernel:0", data=kernel, chunks=(2, 2, 3, 4), compression="gzip", shuffle=True
            )
    assert_same(load(path).backbone, expected_backbone(arrays))


def test_long_lists_of_names_are_split_as_keras_splits_them(tmp_path):
    import h5py

    arrays = random_backbone(SMALL16)
    path = write_keras_h5(tmp_path / "w.h5", arrays)
    with h5py.File(path, "r+") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        file.attrs["layer_names0"], file.attrs["layer_names1"] = names[:5], names[5:]
    assert_same(load(path).backbone, expected_backbone(arrays))


def test_imported_network_computes_what_keras_computes(tmp_path):
    """The same photo through Keras with Keras's own preprocessing, and through ours: block by block."""
    import jax

    from vgg_flax.network.model import bind_backbone
    from vgg_flax.network.preprocess import normalize

    base = keras_backbone(SMALL16, size=64)
    base.save(tmp_path / "vgg.h5")
    weights = load(tmp_path / "vgg.h5")
    photos = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("f4")
    pools = keras.Model(base.input, [base.get_layer(f"block{i}_pool").output for i in range(1, 6)])
    expected = pools(keras.applications.vgg16.preprocess_input(photos.copy()))
    with jax.default_matmul_precision("float32"):
        found = bind_backbone(SMALL16, "float32", weights.backbone)(normalize(photos, weights.preprocessing))
    for i, block in enumerate(expected, 1):
        scale = np.abs(np.asarray(block)).max()
        error = np.abs(np.asarray(found[f"block{i}"]) - np.asarray(block)).max()
        assert error <= 1e-5 * scale, f"block{i}: {error / scale:.1e}"


def test_vgg19_given_as_vgg16_is_told_by_name(tmp_path):
    path = write_keras_h5(tmp_path / "w.h5", random_backbone(SPECS["vgg19"]))
    with pytest.raises(UserError, match=r"w\.h5: holds VGG19 \(16 convolutions\), expected VGG16 .*--model vgg19"):
        load(path)


def test_resnet_is_refused_with_what_was_found(tmp_path):
    import h5py

    names = ["conv1_conv", *(f"conv{i}_block1_1_conv" for i in range(2, 6))]
    rng = np.random.default_rng(0)
    layers = {name: (rng.normal(size=(3, 3, 4, 4)), rng.normal(size=4)) for name in names}
    path = write_keras_h5(tmp_path / "resnet.h5", layers)
    found = r"is no VGG16 or VGG19 .* found 5 convolutions conv1_conv.* and 1 more\. Next, .*: vgg-flax train"
    with pytest.raises(UserError, match=found):
        load(path)
    assert h5py.is_hdf5(path)


def edited(arrays, layer, **changes):
    kernel, bias = arrays[layer]
    return {**arrays, layer: (changes.get("kernel", kernel), changes.get("bias", bias))}


def nan_kernel(arrays):
    kernel = arrays["block3_conv2"][0].copy()
    kernel[0, 1, 2, 3] = np.nan
    return edited(arrays, "block3_conv2", kernel=kernel)


BROKEN = {
    "a layer is missing": (
        lambda a: {k: v for k, v in a.items() if k != "block4_conv2"},
        r"is no VGG16 or VGG19 .* found 12 convolutions block1_conv1, .* and 8 more\.",
    ),
    "not a number": (nan_kernel, r"tensor block3_conv2/.* has 1 NaN or infinite values"),
    "infinite": (
        lambda a: edited(a, "block1_conv1", bias=np.full(4, np.inf)),
        r"block1_conv1/.* has 4 NaN or infinite values",
    ),
    "too large for float32": (
        lambda a: edited(a, "block1_conv1", bias=np.full(4, 1e300)),
        r"block1_conv1/.* has 4 NaN or infinite values",
    ),
    "never written": (
        lambda a: edited(a, "block2_conv1", kernel=np.zeros((3, 3, 4, 4), "f4")),
        r"block2_conv1/.* is all zeros",
    ),
    "integers": (
        lambda a: edited(a, "block2_conv1", kernel=np.ones((3, 3, 4, 4), "i4")),
        r"block2_conv1/.* is int32\. Expected floating point",
    ),
    "text": (lambda a: edited(a, "block2_conv1", bias=np.array([b"a"] * 4)), r"is \|S1\. Expected floating point"),
    "complex": (lambda a: edited(a, "block2_conv1", bias=np.ones(4, "c8")), r"is complex64\. Expected floating"),
    "channels first": (
        lambda a: {k: (kernel.transpose(3, 2, 0, 1), bias) for k, (kernel, bias) in a.items()},
        r"channels_first kernels of a Theano model",
    ),
    "wrong width": (
        lambda a: edited(a, "block3_conv1", bias=np.ones(6, "f4")),
        r"block3_conv1/.* has shape \(6,\) as \[out\]; backbone/block3_conv1/bias of VGG16 is \(5,\)",
    ),
    "wrong rank": (
        lambda a: edited(a, "block3_conv1", kernel=np.ones((5, 5), "f4")),
        r"found 12 convolutions",
    ),
    "two models in one file": (
        lambda a: a | {f"second/{name}": arrays for name, arrays in a.items()},
        r"holds 2 VGGs, which begin with block1_conv1 and second/block1_conv1\.",
    ),
    "a fifth convolution": (
        lambda a: a | {"block1_conv3": a["block1_conv2"]},
        r"found 14 convolutions",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_weights_are_refused_by_name(tmp_path, case):
    damage, message = BROKEN[case]
    path = write_keras_h5(tmp_path / "w.h5", damage(random_backbone(SMALL16)))
    with pytest.raises(UserError, match=message) as caught:
        load(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
