"""The command line: what is accepted, and one clear line for what is not."""

import subprocess
import sys

import pytest

from vgg_flax import __main__ as program
from vgg_flax.cli import parse
from vgg_flax.errors import UserError
from vgg_flax.network.heads import BLOCKS, HEADS, head_spec
from vgg_flax.settings import AugmentSettings, TrainSettings, from_flat, to_flat

MISTAKES = {
    "--wieghts x": "unknown option --wieghts. Did you mean --weights?",
    "--rotaton 3": "Did you mean --rotation?",
    "--lr banana": "--lr is 'banana', expected",
    "--lr": "--lr needs a value",
    "--lr -1": "--lr is -1.0, expected a positive number",
    "--lr nan": "--lr is nan",
    "--epochs 0": "--epochs is 0, expected at least 1",
    "--model vgg11": "--model is 'vgg11', expected one of vgg16, vgg19",
    "--image-size 16": "--image-size is 16, expected auto, or 32 to 1024",
    "--image-size small": "--image-size is 'small', expected",
    "--val-split 0.6 --test-split 0.5": "expected less than 1",
    "--name ../elsewhere": "expected a plain folder name",
    "--rotation 400": "--rotation is 400.0, expected 0 to 180",
    "--unfreeze block5 --blocks 4-5": "--blocks is 4-5, expected 5 with --unfreeze block5",
    "--unfreeze block5 --head regression": "--head is regression, expected another with --unfreeze",
    "--head notebook --blocks 3-5": "--blocks is 3-5, expected 5 with --head notebook",
    "photos/": "unknown option photos/",
}


@pytest.mark.parametrize(("line", "message"), MISTAKES.items())
def test_mistake_is_one_line_and_exit_code_2(line, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(TrainSettings, args=line.split())
    printed = capsys.readouterr()
    assert stop.value.code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_short_names_people_know():
    settings = parse(TrainSettings, args=["-b", "7", "--imgsz", "96", "--strict", "--flip", "False", "--resume"])
    assert (settings.optimizer.batch_size, settings.image_size, settings.split.strict) == (7, 96, True)
    assert settings.augment.flip is False and settings.resume


def test_a_mirrored_digit_is_no_digit():
    assert TrainSettings().augmentation.flip is False
    assert TrainSettings(data="photos").augmentation.flip is True
    assert TrainSettings(augment=AugmentSettings(flip=True)).augmentation.flip is True


def test_only_a_network_that_trains_whole_has_nothing_to_keep():
    stores = {name: from_flat(TrainSettings, {"unfreeze": name}).stores for name in ("none", "block5", "all")}
    assert stores == {"none": True, "block5": True, "all": False}
    assert not from_flat(TrainSettings, {"cache": "none"}).stores


@pytest.mark.parametrize(("options", "head", "blocks"), [
    ({}, "regression", (3, 4, 5)),
    ({"blocks": "5"}, "regression", (5,)),
    ({"unfreeze": "block5"}, "linear", (5,)),
    ({"unfreeze": "all"}, "linear", (3, 4, 5)),
    ({"cache": "none"}, "linear", (3, 4, 5)),
    ({"head": "mlp", "unfreeze": "block5"}, "mlp", (5,)),
    ({"head": "notebook"}, "notebook", (5,)),
])  # fmt: skip
def test_the_head_follows_from_what_is_trained(options, head, blocks):
    settings = from_flat(TrainSettings, options)
    assert settings.head == head
    assert head_spec(settings, 3).blocks == blocks


def test_every_head_that_can_be_asked_for_exists():
    import typing

    from vgg_flax.settings import NetworkSettings

    hints = typing.get_type_hints(NetworkSettings)
    assert set(typing.get_args(hints["head"])) == {"auto", *HEADS}
    assert set(typing.get_args(hints["blocks"])) == {"auto", *BLOCKS}


def test_settings_are_checked_in_python_too():
    with pytest.raises(UserError, match="--views is 0"):
        from_flat(TrainSettings, {"views": 0})
    with pytest.raises(UserError, match="unknown settings: wieghts"):
        from_flat(TrainSettings, {"wieghts": "x"})


def test_flat_settings_lose_nothing():
    settings = from_flat(TrainSettings, {"lr": 0.1, "rotation": 3.0, "seed": 5, "data": "x", "blocks": "5"})
    assert from_flat(TrainSettings, to_flat(settings)) == settings
    count = sum(len(vars(group)) for group in (settings.network, settings.optimizer, settings.features))
    count += len(vars(settings.augment)) + len(vars(settings.split)) + len(vars(settings.answer)) + 9
    assert len(to_flat(settings)) == count  # no name occurs in two groups


@pytest.mark.parametrize("command", [
    ["train.py"], ["webcam.py"], ["-m", "vgg_flax"], ["-m", "vgg_flax", "train"], ["-m", "vgg_flax", "cache"],
    ["-m", "vgg_flax", "convert"], ["-m", "vgg_flax", "convert", "import"], ["-m", "weights_convert"],
], ids=" ".join)  # fmt: skip
def test_help_is_answered_without_loading_anything_heavy_and_fits_80_columns(command):
    typed = [sys.executable, "-X", "importtime", *command, "--help"]
    answer = subprocess.run(typed, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "usage" in answer.stdout and "vgg_flax" in loaded
    assert not loaded & {"numpy", "jax", "flax", "cv2", "rich", "matplotlib", "h5py", "orbax"}
    assert max(map(len, answer.stdout.splitlines())) <= 80


def test_an_unknown_command_names_the_nearest(capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(["trian"])
    assert stop.value.code == 2
    assert "'trian' is no command. Did you mean train?" in capsys.readouterr().err


def test_the_public_names_come_when_they_are_asked_for():
    code = "import sys, vgg_flax; assert 'jax' not in sys.modules; print(vgg_flax.Predictor, vgg_flax.load)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "vgg_flax.answers.predictor.Predictor" in answer.stdout
    import vgg_flax

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vgg_flax.nothing


def test_a_tracker_that_is_not_installed_is_asked_for_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(UserError, match=r"--tracker is tensorboard, expected none, or first pip install 'vgg_flax\["):
        from_flat(TrainSettings, {"tracker": "tensorboard"})
