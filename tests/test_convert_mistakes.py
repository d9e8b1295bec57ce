"""Options that can't be meant, names that are none, and files of other kinds: one line that says what to do."""

import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
from test_convert_files import SMALL16, random_backbone, random_top, write_keras_h5
from test_convert_formats import torch_state

from vgg_flax import files
from vgg_flax.__main__ import main
from weights_convert import mapping

WHOLE = ("--classes", "a,b,c", "--preprocess", "rgb-unit")


@pytest.fixture(autouse=True)
def work_in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mapping, "WIDTHS", (4, 4, 5, 6, 6))
    write_keras_h5("w.h5", random_backbone(SMALL16))
    state = torch_state(SMALL16, random_backbone(SMALL16), random_top(SMALL16, size=64), side=2)
    safetensors.numpy.save_file(state, "top.safetensors")


@pytest.fixture
def said(capsys):
    """The line that a command ends with."""

    def run(*words, code=2):
        with pytest.raises(SystemExit, match=str(code)):
            main(["convert", *words])
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and errors.startswith("error: "), errors
        return errors

    return run


@pytest.mark.parametrize("size", ["0", "-3", "31", "100000"])
def test_sizes_that_no_picture_has(said, size):
    assert "expected 32 to 1024" in said("import", "top.safetensors", "b", *WHOLE, "--image-size", size)


@pytest.mark.parametrize("text", ["nonsense", "none", "relu,none", "maximum"])
def test_activations_that_are_known_are_not_stated_again(said, text):
    """VGG's own ReLUs lie there; `none` was passed over without a word."""
    line = said("import", "top.safetensors", "b", *WHOLE, "--head-activations", text)
    assert f"Leave out --head-activations {text}" in line


def test_activations_are_read_as_a_person_writes_them(capsys):
    state = torch_state(SMALL16, random_backbone(SMALL16), random_top(SMALL16, size=64), side=2)
    renamed = {name.replace("classifier.", "head.a").replace("a6", "b6"): array for name, array in state.items()}
    safetensors.numpy.save_file(renamed, "own.safetensors")
    main(["convert", "import", "own.safetensors", "b", *WHOLE, "--head-activations", "ReLU, none"])
    assert "b written" in capsys.readouterr().out


@pytest.mark.parametrize("options", [("--logit",), ("--image-size", "64"), ("--head-activations", "relu")], ids=str)
def test_options_of_a_head_are_not_passed_over(said, options):
    line = said("import", "w.h5", "b", *options)
    assert "has no dense layers" in line or f"Leave out {' '.join(options)}" in line


def test_a_logit_is_one_plain_output(said):
    assert "Leave out --logit" in said("import", "top.safetensors", "b", *WHOLE, "--logit")


@pytest.mark.parametrize(
    ("classes", "line"),
    [
        ("a", "names 1 class (a), the model has 3 outputs"),
        ("one.txt", "names 1 class (cat), the model has 3 outputs"),
        ("none.txt", "there is no such file"),
        ("./names", "there is no such file"),
    ],
)
def test_class_names(said, tmp_path, classes, line):
    (tmp_path / "one.txt").write_text("cat\n")
    assert line in said("import", "top.safetensors", "b", "--classes", classes, "--preprocess", "rgb-unit")


def test_names_that_are_too_long(said):
    assert "File name too long. Give a shorter one." in said("inspect", "x" * 300, code=3)
    assert "File name too long. Give a shorter one." in said("import", "w.h5", "x" * 300, code=3)


def test_folders_and_other_files(said, tmp_path, capsys):
    main(["convert", "import", "top.safetensors", "our model", *WHOLE])
    capsys.readouterr()
    next_step = said("inspect", "our model").partition("Next, vgg-flax ")[2]
    assert next_step == "convert inspect 'our model'/model.safetensors\n"
    assert "is a folder" in said("inspect", ".")
    (tmp_path / "m.onnx").write_text("hello")
    (tmp_path / "m.stablehlo").write_bytes(b"")
    np.save("m.npy", np.ones(3))
    for name in ("m.onnx", "w.h5"):
        assert "can't be run as an export of this model" in said("verify", "our model", name)
    assert "is empty" in said("verify", "our model", "m.stablehlo")


def test_a_model_and_the_folder_one_is_in_are_not_replaced(said, tmp_path, monkeypatch):
    main(["convert", "import", "top.safetensors", "ours", *WHOLE])
    before = (tmp_path / "ours" / "model.safetensors").read_bytes()
    assert "belongs to a trained model" in said("export", "ours", "ours/model.safetensors", "--overwrite")
    assert (tmp_path / "ours" / "model.safetensors").read_bytes() == before
    assert "is no folder, and is not replaced" in said("import", "w.h5", "top.safetensors", "--overwrite")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir("empty")
    for here in (".", ".."):
        assert "is no name. Expected that of a new folder." in said("import", "../w.h5", here, "--overwrite")


def process(words, before=(), **options):
    """A real process, which knows the small VGG."""
    small = "from weights_convert import mapping; mapping.WIDTHS = (4, 4, 5, 6, 6)"
    code = f"{small}; from vgg_flax.__main__ import program; program({['convert', *words]})"
    return subprocess.Popen([*before, sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **options)


def test_output_that_nobody_reads_ends_it_without_a_word():
    """A table, too: rich's own end is exit code 1."""
    reader, writer = os.pipe()
    os.close(reader)
    done = process(["inspect", "w.h5"], stdout=writer)
    os.close(writer)
    assert done.communicate(timeout=120)[1] == "" and done.returncode == 141


@pytest.mark.skipif(os.name != "posix", reason="a process of Windows always has its streams")
def test_closed_output_is_nowhere(tmp_path):
    done = process(["import", "w.h5", "b"], ["sh", "-c", 'exec "$0" "$@" >&-'])
    assert done.communicate(timeout=120)[1] == "" and done.returncode == 0
    assert (tmp_path / "b" / "model.json").exists()


def test_names_that_the_output_can_not_write_are_escaped():
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = process(["import", "w.h5", "猫"], stdout=subprocess.PIPE, env=environment)
    out, errors = done.communicate(timeout=120)
    assert errors == "" and done.returncode == 0 and "\\u732b written" in out


def test_what_is_printed_to_be_typed_is_one_word_and_no_option(capsys):
    main(["convert", "import", "w.h5", "--", "-it's"])
    assert capsys.readouterr().out.endswith("""--weights './-it'"'"'s'\n""")
    assert files.typed("a/b") == "a/b"
