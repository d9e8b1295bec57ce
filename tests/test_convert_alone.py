"""A head that lies alone in its file, behind the convolutions that it was trained on, and weights beside an
architecture: whole models that say what Keras says."""

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving import legacy_h5_format
from test_convert_files import KERAS_NOISE, SMALL16, expected_backbone, keras_backbone, random_backbone
from test_convert_import_model import functional, keras_probabilities, notebook, prepared, shaken, unnamed

from vgg_flax.answers.predictor import Predictor
from vgg_flax.errors import UserError
from vgg_flax.network.spec import Preprocessing
from weights_convert import convert, import_model, join, readers, verify
from weights_convert.types import Weights

pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)
layers = keras.layers
C = SMALL16.blocks[-1][-1]


def blog(*shape, names=(None, None)):
    """Of "Building powerful image classification models using very little data", 2016."""
    first = [layers.Flatten()] if len(shape) > 1 else []
    hidden, last = layers.Dense(256, "relu", name=names[0]), layers.Dense(1, "sigmoid", name=names[1])
    return keras.Sequential([keras.Input(shape), *first, hidden, layers.Dropout(0.5), last])


def quarters():
    dense = [layers.AveragePooling2D(2), layers.Flatten(), layers.Dense(7, "relu"), layers.Dense(2, "softmax")]
    return keras.Sequential([keras.Input((4, 4, C)), *dense])


def averaged():
    x = features = keras.Input((4, 4, C))
    for layer in (layers.GlobalAveragePooling2D(), layers.Dense(9, "relu"), layers.Dense(3, "softmax")):
        x = layer(x)
    return keras.Model(features, x)


# Each as (head, what it reads of the maps of block 5).
HEADS = {
    "4 x 4": (lambda: blog(4, 4, C), lambda maps: maps),
    "2 x 2, other layers' names": (lambda: blog(2, 2, C, names=("dense_1", "dense")), lambda maps: maps),
    "rows of features": (lambda: blog(4 * 4 * C), lambda maps: maps.reshape(len(maps), -1)),
    "averages": (lambda: blog(C), lambda maps: maps.mean((1, 2))),
    "functional": (averaged, lambda maps: maps),
    "averages of quarters": (quarters, lambda maps: maps),
}


def save_h5(model, path):
    """`save_weights("x.h5")` of tf.keras, which Keras 3 still has for whole models."""
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def older(model, path):
    model.save(path)
    unnamed(path)


FILES = {
    "weights .h5": ("bottleneck_fc_model.h5", save_h5),
    ".weights.h5": ("m.weights.h5", lambda model, path: model.save_weights(path)),
    "whole .h5": ("bottleneck_fc_model.h5", lambda model, path: model.save(path)),
    "whole .keras": ("m.keras", lambda model, path: model.save(path)),
    "whole .keras before 3.7": ("m.keras", older),
}


def base():
    """ImageNet's convolutions, so to speak, as they lie in the cache: in RGB."""
    params = expected_backbone(random_backbone(SMALL16))
    return Weights(params, Preprocessing(224), "imagenet")


def imported(path, folder, architecture=None, **settings):
    with readers.open_source(path) as source:
        source = join.join(readers.described(source, architecture), base())
        said = import_model.Settings(**{"classes": "a,b", "preprocess": "rgb-unit", **settings})
        return import_model.import_model(source, convert.plan(source, SMALL16), folder, said, [].append)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("kind", HEADS)
def test_a_head_alone_comes_in_behind_the_backbone(tmp_path, kind, file):
    build, read = HEADS[kind]
    side = 2 if "2 x 2" in kind else 4
    photos = verify.noise(32 * side)
    keras.utils.set_random_seed(0)
    inputs = read(np.asarray(keras_backbone(SMALL16, 32 * side)(prepared(photos, "rgb-unit"))))
    head = shaken(build(), inputs)
    if kind == "averages":  # those of noise are alike, and so large logits would be of rounding
        head.layers[-1].set_weights([0.2 * array for array in head.layers[-1].get_weights()])
    name, save = FILES[file]
    save(head, tmp_path / name)
    expected = keras_probabilities(head, inputs)
    weights_alone = file.endswith("weights .h5") or file == ".weights.h5"
    said = {"head_activations": "relu", "logit": head.output_shape[-1] == 1} if weights_alone else {}
    if kind == "averages of quarters" and weights_alone:
        return  # pools hold no weights
    if kind.startswith("2 x 2") and file == ".weights.h5":  # which keeps no order of its layers
        said = {"architecture": tmp_path / "m.json"}
        said["architecture"].write_text(head.to_json())
    names = "a,b,c"[: 2 * expected.shape[1] - 1]
    imported(tmp_path / name, tmp_path / "b", classes=names, image_size=32 * side, **said)
    found = Predictor.load(tmp_path / "b", engine="xla").probabilities(photos)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01, "the photos must not all look alike to the model"


def test_a_head_alone_needs_to_be_told_what_lies_before_it(tmp_path):
    blog(4, 4, C).save(tmp_path / "whole.h5")
    save_h5(blog(4, 4, C), tmp_path / "weights.h5")
    for name in ("whole.h5", "weights.h5"):
        message = "Is it a head alone. Then: import --backbone imagenet"
        with readers.open_source(tmp_path / name) as source, pytest.raises(UserError, match=message):
            convert.plan(source, SMALL16)
    functional(*notebook()).save(tmp_path / "all.h5")
    with pytest.raises(UserError, match=r"has convolutions itself\. Expected a head alone with --backbone"):
        imported(tmp_path / "all.h5", tmp_path / "b")


@pytest.mark.parametrize("name", ["w.h5", "w.weights.h5"])
def test_an_architecture_beside_the_weights_is_used(tmp_path, name):
    keras.utils.set_random_seed(0)
    head = [layers.BatchNormalization(), layers.GlobalMaxPooling2D(), layers.Dense(5, "relu"), layers.Dense(2)]
    model = shaken(functional(*head), prepared(verify.noise(64), "bgr-caffe"))
    (save_h5 if name == "w.h5" else FILES[".weights.h5"][1])(model, tmp_path / name)
    (tmp_path / "m.json").write_text(model.to_json())
    with readers.open_source(tmp_path / name) as source:
        source = readers.described(source, tmp_path / "m.json")
        said = import_model.Settings("a,b", "bgr-caffe")
        import_model.import_model(source, convert.plan(source, SMALL16), tmp_path / "b", said, [].append)
    found = Predictor.load(tmp_path / "b", engine="xla").probabilities(verify.noise(64))
    expected = keras_probabilities(model, prepared(verify.noise(64), "bgr-caffe"))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.ptp(expected, axis=0).max() > 0.01


def test_layers_whose_order_is_not_in_the_file_ask_for_the_architecture(tmp_path):
    head = [layers.Flatten(), layers.BatchNormalization(), layers.Dense(2)]
    keras.Sequential([keras.Input((4, 4, C)), *head]).save_weights(tmp_path / "m.weights.h5")
    with pytest.raises(UserError, match=r"batch_normalization\S* may lie between .* --architecture FILE.json"):
        imported(tmp_path / "m.weights.h5", tmp_path / "b")


def test_another_architecture_is_refused_by_name(tmp_path):
    save_h5(functional(*notebook()), tmp_path / "w.h5")
    (tmp_path / "m.json").write_text(functional(layers.Flatten(), layers.Dense(2, name="labels")).to_json())
    (tmp_path / "text.json").write_text("{}")
    with readers.open_source(tmp_path / "w.h5") as source:
        found = convert.plan(readers.described(source, tmp_path / "m.json"), SMALL16)
        with pytest.raises(UserError, match="0 tensors called kernel for layer labels"):
            import_model.read(source, found)
        with pytest.raises(UserError, match=r"text\.json: is no architecture of Keras"):
            readers.described(source, tmp_path / "text.json")
