"""A whole model that prepares pictures itself needs no recipe from anybody, and says what its framework says."""

import contextlib
import json
import types
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from test_convert_files import KERAS_NOISE, SMALL16, keras_backbone
from test_convert_import_model import shaken

from vgg_flax.answers.predictor import Predictor
from vgg_flax.errors import UserError
from weights_convert import convert, guess, import_model, keras_config, readers
from weights_convert.recipes import recipe

pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)
layers, ops = keras.layers, keras.ops
PHOTOS = np.random.default_rng(5).integers(0, 256, (8, 64, 64, 3), np.uint8)
CAFFE = np.array([103.939, 116.779, 123.68], "f4")


def model(before, backbone=None, head=()):
    """`before` in front of a VGG, whose input is a picture of 0..255."""
    inputs = keras.Input((64, 64, 3))
    x = (backbone or keras_backbone(SMALL16, 64))(before(inputs))
    for layer in head or (layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax")):
        x = layer(x)
    return shaken(keras.Model(inputs, x), PHOTOS.astype("f4"))


def imported(path, folder, **settings):
    """What an import without a word about the preparation makes of it."""
    with readers.open_source(path) as source:
        plan = convert.plan(source, SMALL16)
        said = import_model.Settings(**{"classes": "a,b", **settings})
        return import_model.import_model(source, plan, folder, said, [].append)


def assert_same_answers(path, folder, expected, photos=PHOTOS, limit=1e-5, **settings):
    done = imported(path, folder, **settings)
    found = Predictor.load(folder, engine="xla").probabilities(photos)
    if expected.shape[1] == 1:
        expected = np.concatenate([1 - expected, expected], 1)
    np.testing.assert_allclose(found, expected, atol=limit)
    assert np.ptp(expected, axis=0).max() > 0.01, "the photos must not all look alike to the model"
    return done


def adapted():
    layer = layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(100, 50, (8, 64, 64, 3)))
    return layer


def stacked(x):
    x = ops.cast(x, "float32")
    return ops.stack([x[..., i] - mean for i, mean in zip((2, 1, 0), CAFFE, strict=True)], axis=-1)


def turned(x):
    """Colours first, then last again, with a constant for each on the way."""
    x = ops.transpose(x, (0, 3, 1, 2)) - CAFFE[::-1].reshape(3, 1, 1)
    return layers.Permute((2, 3, 1))(x)[..., ::-1]


# Each as (what happens to the picture, the order of the colours that is expected of the input).
CHAINS = {
    "vgg16.preprocess_input": keras.applications.vgg16.preprocess_input,
    "imagenet_utils, torch": lambda x: keras.applications.imagenet_utils.preprocess_input(x, mode="torch"),
    "imagenet_utils, tf": lambda x: keras.applications.imagenet_utils.preprocess_input(x, mode="tf"),
    "operators": lambda x: (x / 255.0 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225]),
    "split and concatenate": lambda x: ops.concatenate(ops.split(x - CAFFE[::-1], 3, axis=-1)[::-1], axis=-1),
    "take": lambda x: ops.take(x, [2, 1, 0], axis=-1) - CAFFE,
    "flip and minus": lambda x: ops.negative(ops.subtract(CAFFE, ops.flip(x, -1))),
    "stack": stacked,
    "transpositions": turned,
    "rescaling and adapted normalization": lambda x: adapted()(layers.Rescaling(2.0, offset=3.0)(x)),
    "normalization in two": lambda x: layers.Normalization(mean=[0.4, 0.4, 0.3], variance=[0.04] * 3)(x / 255),
    "batch norm of pixels": lambda x: layers.BatchNormalization()(layers.Rescaling(1 / 255)(x)),
    "augmentation between": lambda x: layers.RandomFlip()(layers.Rescaling(1 / 127.5, offset=-1)(x)),
}


KNOWN = ("vgg16", "torch", "operators", "split", "take", "flip", "stack", "transpositions")  # ImageNet's mean in it


@pytest.mark.parametrize("kind", CHAINS)
def test_preprocessing_inside_the_model_is_read_from_it(tmp_path, kind):
    built = model(CHAINS[kind])
    suffix = ("keras", "h5")[len(kind) % 2] if kind != "vgg16.preprocess_input" else "h5"
    built.save(tmp_path / f"m.{suffix}")
    if "adapted" in kind:  # what was learned was shaken, too, and counts once it is loaded
        built = keras.models.load_model(tmp_path / f"m.{suffix}", compile=False)
    expected = np.asarray(built(PHOTOS.astype("f4"), training=False))
    done = assert_same_answers(tmp_path / f"m.{suffix}", tmp_path / "b", expected)
    assert done.recipe.name == "rgb-raw" and done.chosen.startswith("the model prepares pictures itself, by ")
    assert ("RGB is assumed" in done.chosen) != any(name in kind for name in KNOWN)


def test_vgg16_preprocess_input_in_a_keras_archive(tmp_path):
    built = model(keras.applications.vgg16.preprocess_input)
    built.save(tmp_path / "m.keras")
    assert_same_answers(tmp_path / "m.keras", tmp_path / "b", np.asarray(built(PHOTOS.astype("f4"))))


def as_keras_2(path, entries):
    """The file as tf.keras 2.15 writes it: `entries` are the operations on tensors, in its spelling, before the VGG."""
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        first, backbone, *head = config["config"]["layers"]
        first["config"]["batch_input_shape"] = first["config"].pop("batch_shape")
        before = "input"
        first["name"] = first["config"]["name"] = before
        found = [first]
        for i, (function, arguments) in enumerate(entries):
            kind = "SlicingOpLambda" if function == "__operators__.getitem" else "TFOpLambda"
            name = f"tf.{function}_{i}"
            nodes = arguments(before) if callable(arguments) else [[before, 0, 0, arguments]]
            found.append(
                {
                    "class_name": kind,
                    "config": {"name": name, "function": function},
                    "name": name,
                    "inbound_nodes": nodes,
                }
            )
            before = name
        for layer in (backbone, *head):
            layer["inbound_nodes"] = [[[before, 0, 0, {}]]]
            before = layer["name"]
            found.append(layer)
        config["config"]["layers"] = found
        config["config"]["input_layers"], config["config"]["output_layers"] = [["input", 0, 0]], [[before, 0, 0]]
        file.attrs["model_config"] = json.dumps(config)


ELLIPSIS, BACKWARDS = {"class_name": "__ellipsis__"}, {"start": None, "stop": None, "step": -1}
COLOURS = [
    ("__operators__.getitem", {"slice_spec": [ELLIPSIS, BACKWARDS]}),
    ("nn.bias_add", {"bias": [-float(value) for value in CAFFE], "data_format": "NHWC"}),
]
OF_KERAS_2 = {
    "preprocess_input": (COLOURS, lambda x: x[..., ::-1] - CAFFE),
    "tf mode": (
        [("math.truediv", {"y": 127.5, "name": None}), ("math.subtract", {"y": 1.0, "name": None})],
        lambda x: x / 127.5 - 1,
    ),
    "reverse, gather and a constant first": (
        [
            ("cast", {"dtype": "float32"}),
            ("reverse", {"axis": [-1], "name": None}),
            ("math.subtract", lambda before: [["_CONSTANT_VALUE", -1, 255.0, {"y": [before, 0, 0], "name": None}]]),
            ("math.multiply", {"y": -1, "name": None}),
            ("compat.v1.gather", {"indices": [1, 0, 2], "validate_indices": None, "axis": -1, "batch_dims": 0}),
            ("math.truediv", {"y": [1.0, 2.0, 4.0]}),
        ],
        lambda x: (x[..., [1, 2, 0]] - 255) / [1, 2, 4],
    ),
    "unstack and stack": (
        [
            ("unstack", {"axis": -1}),
            ("stack", lambda before: [[[before, 0, i, {"axis": -1}] for i in (2, 1, 0)]]),
            ("nn.bias_add", {"bias": [-float(value) for value in CAFFE], "data_format": "NHWC"}),
        ],
        lambda x: x[..., ::-1] - CAFFE,
    ),
}


@pytest.mark.parametrize("kind", OF_KERAS_2)
def test_operations_as_keras_2_writes_them(tmp_path, kind):
    entries, numpy = OF_KERAS_2[kind]
    built = model(lambda x: x)
    inputs = numpy(PHOTOS.astype("f8")).astype("f4")
    built = shaken(built, inputs)
    built.save(tmp_path / "m.h5")
    as_keras_2(tmp_path / "m.h5", entries)
    done = assert_same_answers(tmp_path / "m.h5", tmp_path / "b", np.asarray(built(inputs)))
    assert done.recipe.name == ("rgb-raw" if kind != "reverse, gather and a constant first" else done.recipe.name)


def test_the_first_layer_counts_where_a_sequential_lists_no_input(tmp_path):
    """Keras 2.3 and older wrote none; a first layer that is taken for the input is one that is not computed."""
    head = (layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax"))
    first = layers.Rescaling(1 / 255)
    built = shaken(keras.Sequential([keras.Input((64, 64, 3)), first, keras_backbone(SMALL16, 64), *head]), PHOTOS)
    built.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        del config["config"]["layers"][0]
        config["config"]["layers"][0]["config"]["batch_input_shape"] = [None, 64, 64, 3]
        file.attrs["model_config"] = json.dumps(config)
    done = assert_same_answers(tmp_path / "m.h5", tmp_path / "b", np.asarray(built(PHOTOS.astype("f4"))))
    assert done.recipe.name == "rgb-raw" and done.recipe.preprocessing.image_size == 64


def test_a_head_of_mixed_precision_is_the_same_head(tmp_path):
    """Keras 3 writes its casts as layers."""
    built = model(CHAINS["vgg16.preprocess_input"], head=(layers.GlobalAveragePooling2D(), layers.Dense(2)))
    whole = keras.Model(built.inputs[0], layers.Softmax()(ops.cast(built.output, "float32")))
    whole.save(tmp_path / "m.keras")
    assert_same_answers(tmp_path / "m.keras", tmp_path / "b", np.asarray(whole(PHOTOS.astype("f4"))))


NOT_OF_THE_FORM = {
    "a crop": (lambda x: layers.CenterCrop(64, 64)(x), "CenterCrop center_crop"),
    "one row less": (lambda x: layers.ZeroPadding2D(((1, 0), (0, 0)))(x[:, :63]), "GetItem get_item"),
    "two pictures": (lambda x: x + ops.flip(x, -1), "Add add"),
    "sideways": (lambda x: ops.transpose(x, (0, 2, 1, 3)) / 255, "something else than a picture's colours"),
    "grey": (lambda x: ops.stack([x[..., 1]] * 3, axis=-1), "get_item, stack: expected .* each colour"),
    "negative": (lambda x: 1 - x / 255, "one positive scale"),
    "cut off": (lambda x: ops.clip(x, 0, 200), "Clip clip"),
    "a mean picture": (lambda x: x - np.arange(64.0 * 64 * 3).reshape(64, 64, 3), "Subtract subtract"),
    "fractions cut off": (lambda x: ops.cast(ops.cast(x / 3, "int32"), "float32"), "Cast cast"),
}


@pytest.mark.parametrize("kind", NOT_OF_THE_FORM)
def test_what_is_not_of_that_form_is_refused_by_the_step(tmp_path, kind):
    before, message = NOT_OF_THE_FORM[kind]
    keras.backend.clear_session()
    model(before).save(tmp_path / "m.keras")
    with pytest.raises(UserError, match=message):
        imported(tmp_path / "m.keras", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_what_is_declared_wins_over_what_fits_a_few_photos():
    """A model that scales by itself was trained on raw pixels, whatever labels a few photos have."""
    scores = [
        guess.Score(recipe(name, 64), 0.9, loss, 96, None, works=True, tied=tied)
        for name, loss, tied in (("bgr-caffe", 0.1, True), ("rgb-torch", 0.2, True), ("rgb-raw", 0.3, False))
    ]
    photos = types.SimpleNamespace(source="photos")
    how, chosen = import_model._best(Path("m.keras"), photos, scores, ("a", "b"), raw=True)
    assert how.name == "rgb-raw" and chosen.endswith("by 96 photos of photos, 2 others fit as well or better")
    how, chosen = import_model._best(Path("m.keras"), photos, scores, ("a", "b"), raw=False)
    assert how.name == "bgr-caffe" and "1 others within chance" in chosen


def test_resizing_inside_decides_the_size_and_is_said(tmp_path):
    inputs = keras.Input((96, 96, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(layers.Resizing(64, 64)(inputs))
    x = layers.Dense(2, "softmax")(layers.Flatten()(keras_backbone(SMALL16, 64)(x)))
    keras.Model(inputs, x).save(tmp_path / "m.keras")
    done = imported(tmp_path / "m.keras", tmp_path / "b")
    assert done.recipe.preprocessing.image_size == 64
    assert any("resizes to 64 pixels (bilinear)" in note for note in done.notes)


def test_a_lambda_is_never_run_and_the_person_says_what_it_does(tmp_path):
    def build(function):
        inputs = keras.Input((64, 64, 3))
        x = keras_backbone(SMALL16, 64)(layers.Lambda(function, output_shape=(64, 64, 3), name="prepare")(inputs))
        return keras.Model(inputs, layers.Dense(2, "softmax")(layers.GlobalAveragePooling2D()(x)))

    for function, name in (
        (keras.applications.vgg16.preprocess_input, "bgr-caffe"),
        (lambda x: x / 127.5 - 1, "rgb-symmetric"),
        (lambda x: x / 255.0, "rgb-unit"),
    ):
        built = shaken(build(function), PHOTOS.astype("f4"))
        built.save(tmp_path / "m.keras")
        with pytest.raises(UserError, match=f"Lambda prepare holds code, which is never run; .*--preprocess {name}"):
            imported(tmp_path / "m.keras", tmp_path / "none")
        expected = np.asarray(built(PHOTOS.astype("f4")))
        done = assert_same_answers(tmp_path / "m.keras", tmp_path / name, expected, preprocess=name)
        assert done.notes == (
            f"warning: Lambda prepare holds code and was not run: --preprocess {name} stands for it.",
        )


def test_a_recipe_that_doubles_what_is_inside_is_said(tmp_path):
    model(layers.Rescaling(1 / 255)).save(tmp_path / "m.keras")
    done = imported(tmp_path / "m.keras", tmp_path / "b", preprocess="rgb-unit")
    assert "the model also prepares pictures itself" in done.notes[0] and "rgb-raw" in done.notes[0]
    assert not imported(tmp_path / "m.keras", tmp_path / "c", preprocess="bgr-raw").notes


def test_a_declared_size_is_not_overridden_without_a_word(tmp_path):
    model(layers.Rescaling(1 / 255)).save(tmp_path / "m.keras")
    done = imported(tmp_path / "m.keras", tmp_path / "b", image_size=96)
    assert done.notes == ("warning: the file declares pictures of 64 pixels, --image-size 96.",)
    assert not imported(tmp_path / "m.keras", tmp_path / "c", image_size=64).notes


@pytest.mark.parametrize(("kwargs", "fits"), [({}, True), (None, True), ("training", False), (3, False)])
def test_the_options_of_a_call_are_a_dict_or_nothing(kwargs, fits):
    read = [{"class_name": "__keras_tensor__", "config": {"keras_history": ["images", 0, 0]}}]
    calls = [{"args": read, "kwargs": kwargs}]
    entries = [
        {"class_name": "InputLayer", "config": {"name": "images"}, "inbound_nodes": []},
        {"class_name": "Dense", "config": {"name": "labels"}, "inbound_nodes": calls},
    ]
    config = {"class_name": "Functional", "config": {"layers": entries, "output_layers": [["labels", 0, 0]]}}
    with contextlib.nullcontext() if fits else pytest.raises(UserError, match="an architecture that is not Keras's"):
        assert [layer.options for layer in keras_config.read(Path("m.h5"), config).layers] == [{}, {}]
