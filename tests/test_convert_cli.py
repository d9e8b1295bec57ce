"""`vgg-flax convert`, as a person types it: tables, folders, and one clear line for each mistake."""

import contextlib
import re
import subprocess
import sys
import typing

import h5py
import numpy as np
import onnx
import pytest
import safetensors.numpy
from test_convert_files import (
    KERAS_NOISE,
    SMALL16,
    assert_same,
    expected_backbone,
    random_backbone,
    random_top,
    write_keras_h5,
)
from test_convert_formats import torch_state
from test_convert_onnx import vgg_graph

import weights_convert
from vgg_flax.__main__ import main as vgg_flax
from vgg_flax.answers import bundle
from vgg_flax.commands.convert import Dialect, main
from vgg_flax.errors import UserError
from vgg_flax.network import params
from vgg_flax.network.spec import BACKBONES, KERAS_MEAN, VGG16, VGG19, HeadSpec, Preprocessing
from weights_convert import mapping, rules, runtimes


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    """A full-size VGG16 without its top, written as the official file is."""
    path = tmp_path_factory.mktemp("official") / "vgg16_notop.h5"
    return write_keras_h5(path, random_backbone(VGG16), "official")


def load(source, spec=VGG16):
    return weights_convert.load(str(source), spec, say=[].append)


def run(*args):
    """(exit code, standard output, standard error) of a real process."""
    command = [sys.executable, "-m", "weights_convert", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def mistake(capsys):
    """Runs a command that must end with exit code 2 and one line on standard error, which is returned."""

    def run_in_process(*args):
        with pytest.raises(SystemExit, match="2"):
            main([str(arg) for arg in args])
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and errors.startswith("error: "), errors
        return errors

    return run_in_process


def test_tables_agree_with_the_models():
    for name, spec in BACKBONES.items():
        blocks = tuple((width,) * depth for width, depth in zip(rules.WIDTHS, rules.DEPTHS[name], strict=True))
        assert spec.blocks == blocks


def test_every_dialect_can_be_asked_for():
    assert typing.get_args(Dialect) == ("auto", *rules.DIALECTS)


def test_the_package_and_its_help_load_no_heavy_library():
    code = (
        "import sys, weights_convert, vgg_flax.commands.convert; "
        "print([m for m in ('jax', 'numpy', 'tensorflow', 'torch', 'h5py', 'onnx', 'keras') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("verb", [[], ["inspect"], ["import"], ["export"], ["verify"]], ids=str)
def test_help_fits_a_narrow_terminal_and_has_examples(monkeypatch, capsys, verb):
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.suppress(SystemExit):
        vgg_flax(["convert", *verb, "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    if verb:
        examples = [line.split() for line in lines if line.startswith("  vgg-flax convert ")]
        assert examples and all(words[2] == verb[0] for words in examples)
        assert "usage: vgg-flax convert" in lines[0]
    else:
        assert {line.split()[0] for line in lines if line.startswith("  ")} == {"inspect", "import", "export", "verify"}


def test_help_of_an_import_has_five_settings_first_and_the_rest_in_a_group(capsys):
    with contextlib.suppress(SystemExit):
        vgg_flax(["convert", "import", "--help"])
    groups = capsys.readouterr().out.split("reading options")
    options = [re.findall(r"^\W*(--[a-z][a-z-]*)", group, re.MULTILINE) for group in groups]
    assert options == [
        ["--data", "--preprocess", "--classes", "--model", "--overwrite"],
        ["--dialect", "--image-size", "--logit", "--head-activations", "--architecture", "--backbone"],
    ]


def test_an_import_does_without_jax(official, tmp_path):
    """Weights are copied from file to file: a second of loading libraries would be a quarter of its time."""
    code = "import sys; from vgg_flax.commands.convert import main; main(sys.argv[1:]); print('jax' in sys.modules)"
    for command in (("inspect", official), ("import", official, tmp_path / "w")):
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "False"


def test_a_signal_ends_it_with_one_line_under_either_name():
    code = (
        "import os, runpy, sys, vgg_flax.ending as ending; own = ending.own_signals\n"
        "ending.own_signals = lambda: (own(), os.kill(os.getpid(), 15))\n"
        "sys.argv[1:] = ['inspect', 'w.h5']; runpy.run_module('weights_convert', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 143 and done.stderr == "stopped by SIGTERM. Start it again with the same command.\n"


def test_inspect_shows_both_sides(official):
    code, out, _ = run("inspect", official)
    assert code == 0
    assert "block1_conv1/block1_conv1_W_1:0" in out and "backbone/block5_conv3/bias" in out
    assert "26 tensors, 14,714,688 values" in out and "BGR to RGB" in out


def test_import_writes_a_folder_that_load_takes(official, tmp_path):
    code, out, _ = run("import", official, tmp_path / "w", "--model", "vgg16")
    assert code == 0 and f"--weights {tmp_path / 'w'}" in out
    weights = load(tmp_path / "w")
    direct = load(official)
    assert params.digest(weights.backbone) == params.digest(direct.backbone)
    assert weights.preprocessing == direct.preprocessing
    assert "vgg16_notop.h5" in weights.source


@pytest.fixture
def small(monkeypatch):
    """VGG's shape with few channels passes for the full one."""
    monkeypatch.setattr(mapping, "WIDTHS", (4, 4, 5, 6, 6))


def test_auto_says_why(small, tmp_path, capsys):
    arrays, top = random_backbone(SMALL16), random_top(SMALL16)
    write_keras_h5(tmp_path / "w.h5", arrays)
    safetensors.numpy.save_file(torch_state(SMALL16, arrays), tmp_path / "plain.safetensors")
    safetensors.numpy.save_file(torch_state(SMALL16, arrays, top, timm=True), tmp_path / "top.safetensors")
    onnx.save(vgg_graph(SMALL16, arrays), tmp_path / "m.onnx")
    for name, line in (
        ("w.h5", "dialect keras: 26 backbone tensors by shapes and order; the first is called block1_conv1."),
        (
            "plain.safetensors",
            "dialect torchvision: 26 backbone tensors by shapes and order; the only one for safetensors; its first "
            "kernel is of no known weights: torchvision's statistics, or say --preprocess.",
        ),
        (
            "top.safetensors",
            "dialect timm: 26 backbone tensors by shapes and order; the only one for safetensors.",
        ),
        (
            "m.onnx",
            "dialect onnx-keras: 26 backbone tensors by its layers; the only one for ONNX by tf2onnx.",
        ),
    ):
        main(["inspect", str(tmp_path / name)])
        assert line in capsys.readouterr().out.splitlines()


def test_a_dialect_that_is_asked_for_decides_colours_and_statistics(small, tmp_path, capsys):
    arrays = random_backbone(SMALL16)
    onnx.save(vgg_graph(SMALL16, arrays, producer="an unknown tool"), tmp_path / "m.onnx")
    main(["import", str(tmp_path / "m.onnx"), str(tmp_path / "guessed")])
    main(["import", str(tmp_path / "m.onnx"), str(tmp_path / "told"), "--dialect", "onnx-torch"])
    assert "dialect onnx-torch: 26 backbone tensors by its layers; chosen by --dialect." in capsys.readouterr().out
    guessed, told = (load(tmp_path / name, SMALL16) for name in ("guessed", "told"))
    kernel = arrays["block1_conv1"][0]
    np.testing.assert_array_equal(guessed.backbone["block1_conv1"]["kernel"], kernel[:, :, ::-1])
    np.testing.assert_array_equal(told.backbone["block1_conv1"]["kernel"], kernel)
    np.testing.assert_allclose(np.divide(told.preprocessing.std, 255), (0.229, 0.224, 0.225))


def test_a_dialect_that_does_not_fit_is_one_line(small, tmp_path, mistake):
    path = write_keras_h5(tmp_path / "w.h5", random_backbone(SMALL16))
    expected = "not of torchvision. Expected --dialect keras or keras-numbered or vggface, or none."
    for arguments in (["inspect", path], ["import", path, tmp_path / "w"], ["verify", path]):
        assert expected in mistake(*arguments, "--dialect", "torchvision")
    assert "is no VGG16 or VGG19" in mistake(
        "inspect", write_keras_h5(tmp_path / "x.h5", {"conv1": [np.ones(4)] * 2}), "--dialect", "timm"
    )
    assert "frosard" in mistake("inspect", path, "--dialect", "frosard")
    assert not (tmp_path / "w").exists()


@pytest.mark.filterwarnings(*KERAS_NOISE)
def test_verify_shows_the_stage_that_differs_and_exits_with_1(small, tmp_path, monkeypatch, capsys):
    """Between our reader and Keras, one kernel in the file changes."""
    path = write_keras_h5(tmp_path / "w.h5", random_backbone(SMALL16))
    main(["verify", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("dialect keras: 26 backbone") and lines[1].startswith("w.h5: Keras ")
    rows = [line.strip("│ ").split(" │ ") for line in lines if line.startswith("│")]
    assert [row[0].strip() for row in rows] == ["input", *(f"block{i}" for i in range(1, 6))]
    assert not any("DIFFERS" in line for line in lines)
    choose = runtimes.choose

    def damaging(source, plan):
        runner = choose(source, plan)

        def run(path, plan, inputs):
            with h5py.File(path, "r+") as file:
                file["block4_conv2/block4_conv2/kernel:0"][0, 0, 0, 0] += 1
            return runner(path, plan, inputs)

        return run

    monkeypatch.setattr(runtimes, "choose", damaging)
    with pytest.raises(SystemExit) as stop:
        main(["verify", str(path)])
    assert stop.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if "DIFFERS" in line] == ["block4", "block5"]
    assert any(line.startswith("modelling difference: at most") for line in lines)


def test_an_existing_folder_is_not_overwritten(official, tmp_path, capsys):
    main(["import", str(official), str(tmp_path / "w")])
    before = (tmp_path / "w" / "model.json").read_bytes()
    with pytest.raises(SystemExit, match="2"):
        main(["import", str(official), str(tmp_path / "w")])
    assert "exists" in capsys.readouterr().err
    main(["import", str(official), str(tmp_path / "w"), "--overwrite"])
    assert (tmp_path / "w" / "model.json").read_bytes() == before
    (tmp_path / "w" / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="2"):
        main(["import", str(official), str(tmp_path / "w"), "--overwrite"])
    assert (tmp_path / "w" / "thesis.txt").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["w"]


def test_a_changed_folder_is_noticed(official, tmp_path):
    main(["import", str(official), str(tmp_path / "w")])
    arrays = tmp_path / "w" / "model.safetensors"
    data = bytearray(arrays.read_bytes())
    data[-5] ^= 1
    arrays.write_bytes(data)
    with pytest.raises(UserError, match="changed or damaged"):
        load(tmp_path / "w")


def test_folder_of_the_other_model_is_told_by_name(official, tmp_path):
    main(["import", str(official), str(tmp_path / "w")])
    with pytest.raises(UserError, match="holds VGG16, expected VGG19: use --model vgg16"):
        load(tmp_path / "w", VGG19)


def test_the_top_is_imported_too(tmp_path):
    arrays, top = random_backbone(VGG16), random_top(VGG16, hidden=11, classes=5)
    path = write_keras_h5(tmp_path / "f.h5", {**arrays, **top})
    main(["import", str(path), str(tmp_path / "w"), "--classes", "a,b,c,d,e", "--preprocess", "bgr-caffe"])
    found = bundle.load(tmp_path / "w")
    assert found.spec.head == HeadSpec(5, (5,), ("flatten",), (11, 11), standardize=False)
    assert found.classes == tuple("abcde") and found.preprocessing == Preprocessing(32, KERAS_MEAN, (1, 1, 1))
    assert_same(found.params["head"], {layer: dict(zip(("kernel", "bias"), top[layer], strict=True)) for layer in top})
    assert load(tmp_path / "w").preprocessing == found.preprocessing


def test_without_names_of_its_classes_the_top_is_left_out_by_name(small, tmp_path, capsys):
    arrays, top = random_backbone(SMALL16), random_top(SMALL16)
    main(["import", str(write_keras_h5(tmp_path / "f.h5", {**arrays, **top})), str(tmp_path / "w")])
    out = capsys.readouterr().out
    assert out.count("left out: a head of its own") == 6 and "26 tensors" in out
    assert "Its head was left out. --classes a,b,... or --data FOLDER imports the model whole." in out
    assert_same(load(tmp_path / "w", SMALL16).backbone, expected_backbone(arrays))
    with pytest.raises(UserError, match="without a head"):
        bundle.load(tmp_path / "w")


def test_a_top_for_pictures_that_are_no_square_is_refused(small, tmp_path, capsys):
    arrays, top = random_backbone(SMALL16), random_top(SMALL16)
    top["fc1"] = (np.ones((2 * 6, 7), "f4"), top["fc1"][1])  # block 5 of 32 x 64 pixels
    path = write_keras_h5(tmp_path / "f.h5", {**arrays, **top})
    with pytest.raises(SystemExit):
        main(["import", str(path), str(tmp_path / "w"), "--classes", "a,b,c", "--preprocess", "bgr-caffe"])
    assert "the head reads 12 features; at 32 pixels the backbone gives 6" in capsys.readouterr().err


def test_nothing_is_left_behind_when_an_import_fails(tmp_path, capsys):
    arrays = random_backbone(VGG16)
    arrays["block5_conv3"][1][3] = np.inf  # found only after most of the file has been written
    path = write_keras_h5(tmp_path / "f.h5", arrays)
    with pytest.raises(SystemExit, match="2"):
        main(["import", str(path), str(tmp_path / "w")])
    assert "NaN or infinite" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["f.h5"]


def test_each_mistake_is_one_line(official, tmp_path, mistake):
    small = write_keras_h5(tmp_path / "small.h5", random_backbone(SMALL16))
    (tmp_path / "notes.h5").write_text("Dear diary,\n")
    (tmp_path / "page.h5").write_text("<!DOCTYPE html><title>404</title>")
    (tmp_path / "lfs.h5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (tmp_path / "cut.h5").write_bytes(official.read_bytes()[:1_000_000])
    (tmp_path / "noise.h5").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "empty.h5").write_bytes(b"")
    assert "no such file" in mistake("inspect", tmp_path / "none.h5").lower()
    assert "is a text file" in mistake("inspect", tmp_path / "notes.h5")
    assert "web page" in mistake("inspect", tmp_path / "page.h5")
    assert "git lfs pull" in mistake("inspect", tmp_path / "lfs.h5")
    assert "truncated HDF5 file" in mistake("inspect", tmp_path / "cut.h5")
    assert "no HDF5 file" in mistake("inspect", tmp_path / "noise.h5")
    assert "is empty" in mistake("inspect", tmp_path / "empty.h5")
    assert "is a folder" in mistake("inspect", tmp_path)
    assert "of VGG16 is (3, 3, 3, 64)" in mistake("inspect", small)
    wrong = mistake("import", official, tmp_path / "w", "--model", "vgg19")
    assert "holds VGG16 (13 convolutions), expected VGG19 (16 convolutions)" in wrong
    code, _, errors = run("inspect", tmp_path / "cut.h5")  # and once as a person sees it
    assert code == 2 and errors.startswith("error: ") and errors.count("\n") == 1
    assert "Did you mean --model?" in mistake("import", official, tmp_path / "w", "--modle", "vgg19")
    assert not (tmp_path / "w").exists()


def test_weights_that_are_not_there_are_explained(tmp_path):
    with pytest.raises(UserError, match="imagenet, random, a weight file"):
        load(tmp_path / "nope")
