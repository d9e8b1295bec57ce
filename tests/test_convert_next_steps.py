"""What a refusal tells people to type in their own framework works as it stands, and what it writes comes in."""

import argparse
import importlib.util

import keras
import numpy as np
import pytest
import test_convert_import_model as whole
from test_convert_files import KERAS_NOISE, SMALL16, keras_backbone

from vgg_flax.answers.predictor import Predictor
from vgg_flax.errors import UserError
from weights_convert import convert, import_model, readers

pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)
layers = keras.layers
PHOTOS = np.random.default_rng(3).integers(0, 256, (8, 64, 64, 3), np.uint8)


@pytest.fixture(autouse=True)
def work_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keras.utils.set_random_seed(0)


def answers(file, recipe="rgb-raw", classes="a,b"):
    """Of what an import of the file writes."""
    with readers.open_source(file) as source:
        settings = import_model.Settings(classes, recipe)
        import_model.import_model(source, convert.plan(source, SMALL16), source.path.with_name("b"), settings, print)
    return Predictor.load(source.path.with_name("b"), engine="xla").probabilities(PHOTOS)


def type_what_is_said(file, start, **names):
    """Run the code behind `start` in the message of the refusal, which is short and ends with it."""
    with pytest.raises(UserError) as refusal:
        answers(file)
    _, found, code = str(refusal.value).partition(start)
    assert found and len(str(refusal.value)) < 4 * 80, refusal.value
    exec(code, names)


@pytest.mark.parametrize(
    "head",
    [(("dense", 1, "softmax"),), (("dense", 1, None), ("activation", "relu")), (("dense", 2, "sigmoid"),)],
    ids=str,
)
def test_the_activation_at_the_end_is_changed(head):
    made = [layers.Dense(*rest) if kind == "dense" else layers.Activation(*rest) for kind, *rest in head]
    whole.shaken(whole.nested(layers.Flatten(), *made), PHOTOS).save("m.keras")
    type_what_is_said("m.keras", "loaded as m: ", m=keras.models.load_model("m.keras"), keras=keras)
    expected = whole.keras_probabilities(keras.models.load_model("fixed.keras"), PHOTOS.astype("f4"))
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(answers("fixed.keras"), expected, atol=1e-5)


def test_one_of_two_heads_is_kept():
    x = layers.Flatten()(keras_backbone(SMALL16, 64)(inputs := keras.Input((64, 64, 3))))
    model = keras.Model(inputs, [layers.Dense(2, "softmax")(x), layers.Dense(1)(x)])
    model.save("m.keras")
    type_what_is_said("m.keras", "loaded as m: ", m=model, keras=keras)
    np.testing.assert_allclose(answers("one.keras"), np.asarray(model(PHOTOS.astype("f4"))[0]), atol=1e-5)


def sequential(crop):
    head = (layers.GlobalAveragePooling2D(), layers.Dense(2, "softmax"))
    return keras.Sequential([keras.Input((72, 72, 3)), crop, layers.Rescaling(0.5), keras_backbone(SMALL16, 64), *head])


def functional(crop):
    """With its convolutions laid out flat."""
    x = inputs = keras.Input((72, 72, 3))
    for layer in (crop, layers.Rescaling(0.5), *keras_backbone(SMALL16, 64).layers[1:], layers.Flatten()):
        x = layer(x)
    return keras.Model(inputs, layers.Dense(2, "softmax")(x))


@pytest.mark.parametrize("build", [sequential, functional])
@pytest.mark.parametrize("crop", [lambda: layers.CenterCrop(64, 64), lambda: layers.Cropping2D(4, name="it's")])
def test_a_model_is_saved_from_behind_a_crop(build, crop):
    larger = np.pad(PHOTOS, ((0, 0), (4, 4), (4, 4), (0, 0)), constant_values=255)
    model = whole.shaken(build(crop()), larger)
    model.save("m.keras")
    type_what_is_said("m.keras", "loaded as m: ", m=keras.models.load_model("m.keras"), keras=keras)
    expected = whole.keras_probabilities(model, larger.astype("f4"))
    assert np.ptp(expected, axis=0).max() > 0.01
    np.testing.assert_allclose(answers("behind.keras"), expected, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
@pytest.mark.parametrize(
    "wrap",
    [
        lambda model, more: {"epoch": 3, "args": more, "state_dict": model.state_dict()},
        lambda model, more: {"{weights}": model.state_dict(), "args": more},
        lambda model, more: {"epoch": 3, "model": model},
        lambda model, more: model,
    ],
    ids=("arguments first", "state first", "a module", "whole"),
)
def test_the_state_of_a_checkpoint_with_other_things_is_saved(wrap):
    import test_convert_torch as torches
    import torch

    model = torches.built("three classes")
    torch.save(wrap(model, argparse.Namespace(lr=0.1)), "m.pth")
    type_what_is_said("m.pth", "where you trust it: ")
    expected = torches.probabilities(model, PHOTOS)
    np.testing.assert_allclose(answers("vgg.pth", "rgb-torch", "a,b,c"), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:no signature found")  # torch's, of its older exporter
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs torch")
def test_a_frozen_module_becomes_onnx(monkeypatch):
    import test_convert_torch as torches
    import torch

    model = torches.built("three classes")
    torch.jit.save(torch.jit.freeze(torch.jit.script(model)), "m.pt")
    monkeypatch.setattr(torch, "zeros", lambda *shape: torch.ones(*shape[:2], 64, 64))  # the small model's size
    type_what_is_said("m.pt", "in Python: ")
    expected = torches.probabilities(model, PHOTOS)
    np.testing.assert_allclose(answers("vgg.onnx", "rgb-torch", "a,b,c"), expected, atol=1e-5)


def test_a_checkpoint_of_tensorflow_is_known_by_what_its_files_have_in_common(tmp_path):
    (tmp_path / "cp.ckpt.index").write_bytes(bytes(64))
    said = r"cp\.ckpt\.index: is a TensorFlow checkpoint.*load_weights\('\S*cp\.ckpt'\)"
    with pytest.raises(UserError, match=said), readers.open_source(tmp_path / "cp.ckpt"):
        pass
