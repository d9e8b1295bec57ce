"""Whose weights they are, under whatever names, and what the person is told to do with files that are not read."""

import dataclasses
import gzip
import pickle

import numpy as np
import pytest
from test_convert_files import random_backbone, random_top, write_keras_h5
from test_convert_formats import torch_state, write_torch_zip

from vgg_flax.commands.convert import main
from vgg_flax.errors import UserError
from vgg_flax.network.spec import BackboneSpec
from weights_convert import convert, evidence, readers, rules

WIDE = BackboneSpec("vgg16", ((8,) * 2, (8,) * 2, (9,) * 3, (10,) * 3, (10,) * 3))


def told(name, bgr):
    """A backbone whose first convolution has the numbers of a known one."""
    arrays = random_backbone(WIDE)
    kernel, bias = (array.copy() for array in arrays["block1_conv1"])
    _, biases, points = evidence.KNOWN[name]
    bias[: len(biases)] = biases
    for h, w, c, o, value in points:
        kernel[h, w, 2 - c if bgr else c, o] = value
    return arrays | {"block1_conv1": (kernel, bias)}


@pytest.mark.parametrize("bgr", [False, True], ids=["rgb", "bgr"])
@pytest.mark.parametrize("name", evidence.KNOWN)
def test_the_first_kernel_decides_colours_and_statistics(tmp_path, name, bgr):
    """jcjohnson's files are BGR, torchvision's FEATURES RGB, both with torchvision's names."""
    arrays = told(name, bgr)
    path = write_torch_zip(tmp_path / "w.pth", torch_state(WIDE, arrays))
    with readers.open_source(path) as source:
        plan = convert.plan(source, WIDE)
        first = plan.read()["block1_conv1"]["kernel"]
    assert (plan.mean, plan.std) == (rules.TORCH if "torchvision" in name else rules.CAFFE)
    assert f"the first kernel is of {name}, in {'BGR' if bgr else 'RGB'}" in plan.why
    kernel = arrays["block1_conv1"][0]
    np.testing.assert_array_equal(first, kernel[:, :, ::-1] if bgr else kernel)


@pytest.mark.parametrize("bgr", [False, True], ids=["rgb", "bgr"])
@pytest.mark.parametrize("name", evidence.KNOWN)
def test_fine_tuned_kernels_are_known_and_others_are_not(name, bgr):
    rng = np.random.default_rng(0)
    kernel, bias = told(name, bgr)["block1_conv1"]
    for _ in range(50):
        moved = [array + rng.normal(0, 0.01, array.shape) for array in (kernel, bias)]
        found = evidence.origin(*moved)
        assert found and found[0].split()[0] == name.split()[0] and found[1] == bgr
        assert not evidence.origin(rng.normal(0, rng.uniform(0.02, 0.5), (3, 3, 3, 64)), np.zeros(64))
        assert not evidence.origin(rng.permuted(kernel), bias * 0)


def test_unknown_weights_keep_the_dialects_statistics_and_it_is_said(tmp_path):
    path = write_torch_zip(tmp_path / "w.pth", torch_state(WIDE, random_backbone(WIDE)))
    with readers.open_source(path) as source:
        plan = convert.plan(source, WIDE)
        forced = convert.plan(source, WIDE, "torchvision")
    assert (plan.mean, plan.std) == rules.TORCH and "of no known weights" in plan.why
    assert "chosen by --dialect" in forced.why and "known weights" not in forced.why


@pytest.mark.weights
def test_genuine_weights_are_known(tmp_path):
    import weights_convert
    from vgg_flax.network.spec import VGG16

    backbone = weights_convert.load("imagenet", VGG16, say=print).backbone
    layers = {name: (layer["kernel"], layer["bias"]) for name, layer in backbone.items()}
    path = write_torch_zip(tmp_path / "w.pth", torch_state(VGG16, layers))
    with readers.open_source(path) as source:
        plan = convert.plan(source)
    assert (plan.mean, plan.std) == rules.CAFFE and "of Caffe's VGG16, in RGB" in plan.why
    kernel, bias = layers["block1_conv1"]
    for seed in range(20):
        moved = [array + np.random.default_rng(seed).normal(0, 0.02, array.shape) for array in (kernel, bias)]
        assert evidence.origin(*moved)[1] is False and evidence.origin(moved[0][:, :, ::-1], moved[1])[1] is True


def test_a_top_of_nan_is_left_out_with_a_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("weights_convert.mapping.WIDTHS", (8, 8, 9, 10, 10))
    top = {
        name: tuple(np.full_like(array, np.nan) for array in pair) for name, pair in random_top(WIDE, size=64).items()
    }
    state = torch_state(WIDE, told("Caffe's VGG16", False), top, side=2)
    main(["import", str(write_torch_zip(tmp_path / "w.pth", state)), str(tmp_path / "w")])
    out = capsys.readouterr().out
    assert out.count("left out: NaN, as torchvision's FEATURES have it") == 6 and "of Caffe's VGG16, in RGB" in out


def test_a_large_vector_beside_the_convolutions_is_not_read(tmp_path):
    state = torch_state(WIDE, random_backbone(WIDE)) | {"table.weight": np.full(4097, np.nan, "f4")}
    with readers.open_source(write_torch_zip(tmp_path / "w.pth", state)) as source:
        tensors = tuple(
            dataclasses.replace(one, load=pytest.fail) if one.name == "table.weight" else one for one in source.tensors
        )
        plan = convert.plan(dataclasses.replace(source, tensors=tensors), WIDE)
    assert plan.left_out == (("table.weight", "a head of its own"),)


def test_the_person_decides_statistics_of_any_source(tmp_path, capsys, monkeypatch):
    from vgg_flax.answers import bundle

    monkeypatch.setattr("weights_convert.mapping.WIDTHS", (8, 8, 9, 10, 10))
    path = write_torch_zip(tmp_path / "w.pth", torch_state(WIDE, random_backbone(WIDE)))
    main(["import", str(path), str(tmp_path / "w"), "--preprocess", "bgr-caffe"])
    found = bundle.load_backbone(tmp_path / "w")
    assert (found.preprocessing.mean, found.preprocessing.std) == rules.CAFFE
    kernel = random_backbone(WIDE)["block1_conv1"][0]
    np.testing.assert_array_equal(found.params["block1_conv1"]["kernel"], kernel[:, :, ::-1])
    assert "preprocessing as given by --preprocess" in capsys.readouterr().out


def test_convolutions_called_conv1_1_in_a_keras_file_are_vggfaces(tmp_path):
    arrays = {f"conv{name[5]}_{name[-1]}": pair for name, pair in random_backbone(WIDE).items()}
    with readers.open_source(write_keras_h5(tmp_path / "w.h5", arrays)) as source:
        plan = convert.plan(source, WIDE)
    assert plan.dialect == "vggface" and plan.mean == (129.1863, 104.7624, 93.5940) and plan.bgr
    known = {f"conv{name[5]}_{name[-1]}": pair for name, pair in told("Caffe's VGG16", True).items()}
    with readers.open_source(write_keras_h5(tmp_path / "w.h5", known)) as source:  # the oldest files of Keras
        assert (convert.plan(source, WIDE).mean, convert.plan(source, WIDE).std) == rules.CAFFE


FOREIGN = {
    "w.h5.gz": (gzip.compress(b"x" * 99), "is packed by gzip.*gunzip"),
    "w.mat": (b"MATLAB 5.0 MAT-file" + bytes(99), "MATLAB file.*exportONNXNetwork"),
    "w.tflite": (b"\x1c\0\0\0TFL3" + bytes(99), r"TensorFlow Lite.*tf2onnx\.convert .*--tflite"),
    "w.pb": (b"\n\x0b" + bytes(99), "TensorFlow graph.*--graphdef"),
    "w.caffemodel": (b"\n\x0fVGG_ILSVRC_16_layers", "Caffe model"),
    "vgg_16.ckpt.index": (bytes(99), r"TensorFlow checkpoint.*load_weights\('\S+ models/vgg_16\.ckpt'\)"),
    "export.pkl": (pickle.dumps({"a": 1}), "fastai's.*load_learner"),
    "model.pt": (pickle.dumps({"a": 1}), r"bare pickle.*weights_only=False\)\.state_dict"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_files_that_are_not_read_have_a_next_step(tmp_path, name):
    data, message = FOREIGN[name]
    folder = tmp_path / "my models"
    folder.mkdir()
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught, readers.open_source(folder / name):
        pass
    text = str(caught.value)
    assert "\n" not in text and "block1_conv1" not in text
    if "gunzip" in text or "tf2onnx" in text:
        assert f"'{folder / name}'" in text, "a command is quoted for the shell"


def test_folders_of_tensorflow_have_a_next_step(tmp_path):
    for name, message in (("saved_model.pb", "--saved-model"), ("checkpoint", "latest_checkpoint")):
        folder = tmp_path / name.split(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(b"x")
        with pytest.raises(UserError, match=message), readers.open_source(folder):
            pass
