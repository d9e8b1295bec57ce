"""In and out again: what another framework's file held comes back with every bit, and so does a model of ours."""

import dataclasses
import json

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
from test_convert_export import make
from test_convert_files import KERAS_NOISE, SMALL16, SPECS, random_backbone, random_top, write_keras_h5
from test_convert_formats import torch_state

from vgg_flax.answers import bundle
from vgg_flax.commands.convert import main
from vgg_flax.network.spec import HeadSpec, ModelSpec
from weights_convert import mapping, rules

pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)
TORCH, MEASURED = rules.TORCH, ((101.1, 97.3, 83.7), (61.3, 59.9, 57.1))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """VGG's shape with few channels passes for the full one."""
    monkeypatch.setattr(mapping, "WIDTHS", (4, 4, 5, 6, 6))


def through(path, back, spec, *options, said=()):
    """Import `path`, put a head on it where it has none, and export it to `back`."""
    folder = path.parent
    main(["import", str(path), str(folder / "imported"), *said])
    run = folder / "imported"
    if json.loads((run / "model.json").read_text())["head"] is None:
        found = bundle.load_backbone(run)
        preprocessing = dataclasses.replace(found.preprocessing, image_size=64)
        head = {"predictions": {"kernel": np.ones((spec.blocks[-1][-1], 2), "f4"), "bias": np.zeros(2, "f4")}}
        model = ModelSpec(spec, HeadSpec(2, (5,), ("average",), standardize=False), 64)
        run = folder / "run"
        bundle.save(bundle.Bundle(model, {"backbone": found.params, "head": head}, ("ant", "bee"), preprocessing), run)
    main(["export", str(run), str(back), *options])


def datasets(path):
    """{layer and variable: array} of a Keras weights file."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, thing: found.update({name: thing[()]} if isinstance(thing, h5py.Dataset) else {}))
        layers = [name for name in file.attrs["layer_names"].astype(str) if len(file[name].attrs["weight_names"])]
        names = [f"{layer}/{name}" for layer in layers for name in file[layer].attrs["weight_names"].astype(str)]
    assert sorted(names) == sorted(found)
    return {name: found[name] for name in names}


def assert_identical(found, expected):
    """The same names in the same order, with the same types, shapes and bits."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("model", SPECS)
@pytest.mark.parametrize("top", [False, True], ids=["no top", "top"])
def test_keras_weights_come_back(tmp_path, top, model):
    dense = random_top(SPECS[model], size=64, classes=2) if top else {}
    path = write_keras_h5(tmp_path / "in.h5", random_backbone(SPECS[model]) | dense)
    said = ["--classes", "a,b", "--preprocess", "bgr-caffe"] if top else []
    through(path, tmp_path / "out.h5", SPECS[model], "--format", "keras-weights", said=said)
    assert_identical(datasets(tmp_path / "out.h5"), datasets(path))


@pytest.mark.parametrize("model", SPECS)
def test_torchvision_safetensors_come_back(tmp_path, model):
    state = torch_state(SPECS[model], random_backbone(SPECS[model]))
    safetensors.numpy.save_file(state, tmp_path / "in.safetensors")
    through(tmp_path / "in.safetensors", tmp_path / "out.safetensors", SPECS[model], "--format", "torchvision")
    assert_identical(in_order(safetensors.numpy.load_file(tmp_path / "out.safetensors")), in_order(state))


def in_order(arrays):
    return dict(sorted(arrays.items()))


def test_our_safetensors_come_back(tmp_path):
    arrays = random_backbone(SMALL16)
    flat = {f"backbone/{k}/{p}": a for k, v in arrays.items() for p, a in zip(("kernel", "bias"), v, strict=True)}
    safetensors.numpy.save_file(
        flat, tmp_path / "in.safetensors", {"mean": "[1.1, 2.2, 3.3]", "std": "[4.4, 5.5, 6.6]"}
    )
    through(tmp_path / "in.safetensors", tmp_path / "out.safetensors", SMALL16)
    found = safetensors.numpy.load_file(tmp_path / "out.safetensors")
    assert_identical(in_order({k: v for k, v in found.items() if k.startswith("backbone/")}), in_order(flat))
    with safetensors.safe_open(tmp_path / "out.safetensors", "np") as file:
        assert (file.metadata()["mean"], file.metadata()["std"]) == ("[1.1, 2.2, 3.3]", "[4.4, 5.5, 6.6]")


def everything(path):
    """{layer: (its configuration, its arrays)} of a whole Keras model."""
    model = keras.models.load_model(path, compile=False)
    constants = {"mean", "variance"}
    return {
        layer.name: ({k: v for k, v in layer.get_config().items() if k in constants}, layer.get_weights())
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer)
    }


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize(("mean", "std"), [TORCH, MEASURED], ids=["torch", "measured"])
@pytest.mark.parametrize("head", ["notebook", "one maximum"])
def test_a_whole_keras_model_comes_back(tmp_path, head, mean, std, suffix):
    """Temperature, preprocessing and standardisation included: the second file is the first one."""
    ours = make(head, mean=mean, std=std)
    assert ours.judge.temperature != 1
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    bundle.save(ours, tmp_path / "run")
    main(["export", str(tmp_path / "run"), str(first)])
    main(["import", str(first), str(tmp_path / "back"), "--preprocess", "rgb-raw", "--classes", "ant,bee,cat"])
    main(["export", str(tmp_path / "back"), str(second)])
    expected, found = everything(first), everything(second)
    assert list(found) == list(expected) and "preprocessing" in expected
    for layer, (constants, arrays) in expected.items():
        assert found[layer][0] == constants, layer
        assert_identical(dict(enumerate(found[layer][1])), dict(enumerate(arrays)))
    back = bundle.load(tmp_path / "back")
    assert (back.preprocessing.mean, back.preprocessing.std) == (mean, std)
