"""The command line: what is accepted, and one clear line for what is not."""

import subprocess
import sys

import pytest

from vgg_flax.cli import parse
from vgg_flax.errors import UserError
from vgg_flax.settings import AugmentSettings, TrainSettings

MISTAKES = {
    "--wieghts x": "Did you mean --weights?",
    "--lr banana": "--lr: expected FLOAT, found 'banana'",
    "--lr -1": "--lr is -1.0, expected a positive number",
    "--lr nan": "--lr is nan",
    "--epochs 0": "--epochs is 0, expected at least 1",
    "--model vgg11": "invalid choice 'vgg11'",
    "--image-size 16": "--image-size is 16, expected 32 to 1024",
    "--val-split 0.6 --test-split 0.5": "expected less than 1",
    "--name ../elsewhere": "expected a plain folder name",
    "--rotation 400": "--rotation is 400.0, expected 0 to 180",
    "--unfreeze block5 --features block4": "--features is block4, expected block5 with --unfreeze block5",
    "--unfreeze block5 --head logreg": "--head is logreg, expected another one with --unfreeze",
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
    config = parse(TrainSettings, args=["-b", "7", "--imgsz", "96", "--strict", "--flip", "False", "--resume"])
    assert (config.batch_size, config.image_size, config.strict, config.augment.flip) == (7, 96, True, False)
    assert config.resume


def test_unset_values_depend_on_the_data_and_the_head():
    digits = TrainSettings().resolved()
    photos = TrainSettings(data="photos").resolved()
    assert (digits.image_size, digits.augment.flip) == (64, False)  # a mirrored 3 is no digit
    assert (photos.image_size, photos.augment.flip) == (224, True)
    rates = [TrainSettings(head=head).choices()[0].lr for head in ("linear", "notebook")]
    assert rates[0] > rates[1]
    assert TrainSettings(image_size=96, lr=0.5, augment=AugmentSettings(flip=True)).resolved().image_size == 96


def test_only_a_network_that_trains_whole_has_nothing_to_keep():
    assert [TrainSettings(unfreeze=name).cache for name in ("none", "block5", "all")] == [
        "features",
        "features",
        "none",
    ]
    assert TrainSettings(unfreeze="block5", cache="none").cache == "none"


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_head_on_a_trained_block5_reads_it(head):
    assert [choice.features for choice in TrainSettings(head=head, unfreeze="block5").choices()] == ["block5"]
    assert [choice.features for choice in TrainSettings(head=head, unfreeze="all").choices()] == ["all"]


def test_settings_are_checked_in_python_too():
    with pytest.raises(UserError, match="--views is 0"):
        TrainSettings(views=0)


@pytest.mark.parametrize("program", [["train.py"], ["webcam.py"], ["-m", "weights_convert"]], ids=" ".join)
def test_help_is_answered_without_loading_anything_heavy(program):
    command = [sys.executable, "-X", "importtime", *program, "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "usage" in answer.stdout and "tyro" in loaded
    assert not loaded & {"numpy", "jax", "flax", "cv2", "rich", "matplotlib", "h5py", "orbax"}
