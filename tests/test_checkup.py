"""What every run says of its photos by the way, from what it has computed anyway."""

import json

import numpy as np
import pytest
from conftest import make_photos, write_photos

from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictions import Predictions
from vgg_flax.commands.train import train
from vgg_flax.insight.checkup import check_run, in_one_line


def answers(photos, wrong=(), folds=True):
    """Right on every photo but for those in `wrong`, which are taken for the next class; the last one is far away."""
    guess = photos.labels.copy()
    guess[list(wrong)] = (guess[list(wrong)] + 1) % 3
    trained = photos.splits != "test"
    return Predictions(
        np.array(photos.classes), np.array(photos.names), photos.contents, photos.splits, photos.labels,
        8 * np.eye(3, dtype=np.float32)[guess], np.where(trained & folds, 0, -1),
        np.append(np.linspace(2, 3, len(photos) - 1), 0.1), np.full((len(photos), 5), -1),
        np.array([], str), np.array(False),
    )  # fmt: skip


@pytest.mark.parametrize("folds", [True, False])
def test_only_photos_that_the_answering_model_has_not_seen_are_doubted(folds):
    photos = make_photos(90)
    train, val, test = (int(photos.rows(split)[3]) for split in ("train", "val", "test"))
    found = check_run(photos, answers(photos, [train, val, test], folds), Judge())
    expected = {train, val, test} if folds else {val, test}
    assert {one["file"] for one in found["first_wrong_labels"]} == {photos.names[i] for i in expected}
    assert found["wrong_labels"] == len(expected)
    assert found["first_outliers"] == [photos.names[-1]]
    assert json.loads(json.dumps(found)) == found


def test_one_line_says_what_was_found_and_what_looks_closer():
    found = {"wrong_labels": 3, "near_copy_groups": 36, "outliers": 0}
    line = "doctor: 3 suspected wrong labels, 36 near-copy groups; see vgg-flax doctor 'my photos'"
    assert in_one_line(found, "my photos") == line
    assert "nothing at first sight" in in_one_line(dict.fromkeys(found, 0), "x")


def test_a_run_tells_what_it_found(tmp_path, cache, capsys):
    folder = write_photos(tmp_path / "photos", {"blue": 15, "green": 15, "red": 15})
    train(data=str(folder), weights="random", image_size=32, project=tmp_path / "runs", epochs=40)
    report = json.loads((tmp_path / "runs" / "train" / "report.json").read_text())
    assert set(report["doctor"]) >= {"wrong_labels", "near_copy_groups", "outliers"}
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("doctor: ")]
    assert len(lines) == 1 and lines[0].endswith(f"see vgg-flax doctor {folder}")
