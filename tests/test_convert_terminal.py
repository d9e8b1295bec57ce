"""Nothing that a file, a folder or a class is called reaches the terminal as it stands."""

import unicodedata

import numpy as np
import onnx
import pytest
import safetensors.numpy
from test_convert_files import SMALL16, random_backbone, random_top, write_keras_h5
from test_convert_formats import torch_state, write_tfjs, write_torch_legacy, write_torch_zip
from test_convert_onnx import vgg_graph

from vgg_flax.commands.convert import main
from vgg_flax.files import printable
from weights_convert import mapping

NASTY = "a\x1b[31m\x07\x9b2J\r\n\u2028\u202etxt\u2066[bold][/]\\"
BYTES = b"\xff\x1b[31m\n[bold]\xe2\x80\xae"  # of a folder's name, which on Linux need not be text
TURNING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def arrays(start=NASTY):
    return {f"{start}{layer}": pair for layer, pair in (random_backbone(SMALL16) | random_top(SMALL16)).items()}


def tensors():
    state = torch_state(SMALL16, random_backbone(SMALL16), random_top(SMALL16))
    return {f"{NASTY}{name}": array for name, array in state.items()}


def write_npz(path):
    np.savez(path, **{f"{k}/{part}:0": a for k, pair in arrays().items() for part, a in zip("Wb", pair, strict=True)})


def write_npy(path):
    np.save(path, np.array({name: list(pair) for name, pair in arrays().items()}))


def write_onnx(path):
    model = vgg_graph(SMALL16, random_backbone(SMALL16), producer=NASTY)
    for thing in (*model.graph.initializer, *model.graph.node):
        thing.name = NASTY + thing.name
    for node in model.graph.node:
        names = {one.name.removeprefix(NASTY) for one in model.graph.initializer}
        node.input[:] = [NASTY + name if name in names else name for name in node.input]
    onnx.save(model, str(path))


WRITERS = {
    "w.h5": lambda path: write_keras_h5(path, arrays(NASTY.encode("ascii", "ignore").decode())),
    "w.npz": write_npz,
    "w.npy": write_npy,
    "w.pth": lambda path: write_torch_zip(path, tensors()),
    "old.pth": lambda path: write_torch_legacy(path, tensors()),
    "w.safetensors": lambda path: safetensors.numpy.save_file(tensors(), path),
    "w.onnx": write_onnx,
    "js": lambda path: write_tfjs(path, arrays()),
}


def assert_harmless(shown):
    assert shown
    for text in shown.splitlines():
        bad = [c for c in text if unicodedata.category(c) in ("Cc", "Cs") or unicodedata.bidirectional(c) in TURNING]
        assert not bad, ascii(text)


@pytest.mark.parametrize("name", WRITERS)
def test_names_in_a_file_and_of_its_folder(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr(mapping, "WIDTHS", (4, 4, 5, 6, 6))
    (tmp_path / "plain").mkdir()
    WRITERS[name](tmp_path / "plain" / name)
    folder = (tmp_path / "plain").rename(tmp_path / BYTES.decode(errors="surrogateescape"))
    for words in (["inspect", folder / name], ["import", folder / name, folder / "out"], ["verify", folder / "none"]):
        try:
            main(list(map(str, words)))
        except SystemExit:
            assert words[0] == "verify"
        shown = capsys.readouterr()
        assert_harmless(shown.out + shown.err)
        assert "\\x1b[31m" in shown.out + shown.err
        assert words[0] == "verify" or "[bold][/]\\" in shown.out


def test_what_is_printed_may_hold_any_language():
    assert printable("crème 猫 كلب 🐶 ['a']\\n") == "crème 猫 كلب 🐶 ['a']\\n"
    assert printable("\u202e\ud800\x1b\u2067") == "\\u202e\\ud800\\x1b\\u2067"


@pytest.mark.parametrize("classes", [f"{NASTY},{NASTY}", f"{NASTY},b", NASTY], ids=("twice", "two", "one"))
def test_class_names(tmp_path, monkeypatch, capsys, classes):
    monkeypatch.setattr(mapping, "WIDTHS", (4, 4, 5, 6, 6))
    state = torch_state(SMALL16, random_backbone(SMALL16), random_top(SMALL16, classes=3))
    safetensors.numpy.save_file(state, tmp_path / "m.safetensors")
    (tmp_path / "names.txt").write_text(classes.replace(",", "\n").replace("\r\n", ""))
    for given in (classes, tmp_path / "names.txt"):
        with pytest.raises(SystemExit, match="2"):
            main(["import", str(tmp_path / "m.safetensors"), str(tmp_path / "b"), "--classes", str(given)])
        assert_harmless(capsys.readouterr().err)
