"""`vgg-flax train` as people run it: in a process of its own, on small pictures, with random weights."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import yaml
from conftest import write_photos

from vgg_flax.answers import predictions
from vgg_flax.answers.predictor import Predictor
from vgg_flax.data.decode import load_image

REPOSITORY = Path(__file__).parents[1]
SMALL = ["--weights", "random", "--image-size", "32", "--engine", "xla"]
QUICK = [*SMALL, "--head", "linear", "--views", "2", "--epochs", "6", "--lr", "0.01"]
BLOCK5 = ("--unfreeze", "block5", "--lr", "0.001")
NOTEBOOK = ("--head", "notebook", "--lr", "0.003", "--dropout", "0.2", "--views", "1")
REGRESSION = ("--head", "regression", "--epochs", "60")
LEFT = {
    "config.yaml", "metrics.csv", "model", "report.json", "curves.png", "confusion_matrix.png",
    "confusion_matrix_normalized.png", "mistakes.png", "views.png", "split.csv", "bad_files.csv", "predictions.npz",
    "report.html",
}  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with photos, a cache and room for runs, shared by the tests of this file."""
    folder = tmp_path_factory.mktemp("work")
    write_photos(folder / "photos", {"blue": 30, "green": 30, "red": 30})
    return folder


def command(*options):
    return [sys.executable, "-W", "error", str(REPOSITORY / "train.py"), *options]


def environment(workplace, **more):
    return os.environ | {"VGG_FLAX_CACHE": str(workplace / "cache"), "JAX_PLATFORMS": "cpu"} | more


def run(workplace, *options, code=0, **more):
    answer = subprocess.run(
        command("--data", "photos", *QUICK, *options),
        cwd=workplace, env=environment(workplace, **more), capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == code, answer.stderr + answer.stdout
    return answer


def figures(folder):
    """All numbers of a run that do not depend on the clock."""
    report = json.loads((folder / "report.json").read_text())
    report = {name: report[name] for name in report if name not in ("timings", "computed")}
    with (folder / "metrics.csv").open() as file:
        log = [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in csv.DictReader(file)
        ]
    arrays = safetensors.numpy.load_file(folder / "model" / "model.safetensors")
    return report, log, {name: array.tobytes() for name, array in arrays.items()}


@pytest.fixture(scope="module")
def finished(workplace):
    """An undisturbed run of a linear head, in epochs."""
    run(workplace, "--name", "whole", "--tracker", "tensorboard")
    return workplace / "runs" / "whole"


@pytest.fixture(scope="module")
def finetuned(workplace):
    """An undisturbed run that trains block5 from stored outputs of block4."""
    run(workplace, "--name", "finetuned", *BLOCK5)
    return workplace / "runs" / "finetuned"


@pytest.fixture(scope="module")
def regressed(workplace):
    """An undisturbed run of the default head."""
    run(workplace, "--name", "regressed", *REGRESSION)
    return workplace / "runs" / "regressed"


def test_a_run_leaves_everything_behind_and_learns_colours(finished):
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    assert {name for name in names if not name.startswith("events")} == LEFT | {"checkpoints"}
    [events] = finished.glob("events.out.tfevents*")
    tags = (b"val/accuracy", b"val/loss", b"test/macro_f1", b"confusion_matrix", b"curves")
    assert all(tag in events.read_bytes() for tag in tags)
    report = json.loads((finished / "report.json").read_text())
    count = report["test"]["count"]
    assert report["test"]["accuracy"] == 1.0 and count > 10
    assert report["random_weights"] is True and report["image_size"] == 32
    assert np.sum(report["test"]["confusion_matrix"]) == count
    with (finished / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 90 and {row["split"] for row in rows} == {"train", "val", "test"}
    assert all(row["file"].startswith(row["label"]) for row in rows)
    assert report["computed"] == {"decoded": 90, "rows": 90 + sum(row["split"] == "train" for row in rows)}
    settings = yaml.safe_load((finished / "config.yaml").read_text())["settings"]
    assert settings["epochs"] == 6 and settings["flip"] is None
    with (finished / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == list("123456")


def test_its_page_has_pictures_and_is_written_again_from_anywhere(workplace, regressed, tmp_path):
    page = regressed / "report.html"
    first = page.read_text()
    assert first.count("What speaks for") >= 12 and "nearest training photos" in first
    page.unlink()
    again = [sys.executable, "-W", "error", "-m", "vgg_flax", "report", str(regressed)]
    answer = subprocess.run(again, cwd=tmp_path, env=environment(workplace), capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == f"written: {page}\n"
    start = '<script type="application/json"'
    assert page.read_text().partition(start)[2] == first.partition(start)[2]


def test_the_default_head_leaves_its_search_and_its_curve(workplace, regressed):
    names = {path.name for path in regressed.iterdir() if not path.name.startswith(".")}
    assert names == LEFT | {"search.csv"}
    report = json.loads((regressed / "report.json").read_text())
    with (regressed / "search.csv").open() as file:
        tried = list(csv.DictReader(file))
    assert {row["columns"] for row in tried} == {"5", "4-5", "3-5"}
    assert (tried[0]["columns"], float(tried[0]["strength"])) == (
        report["chosen"]["blocks"],
        report["chosen"]["strength"],
    )
    head = json.loads((regressed / "model" / "model.json").read_text())["head"]
    assert head["blocks"] == {"5": [5], "4-5": [4, 5], "3-5": [3, 4, 5]}[report["chosen"]["blocks"]]
    with (regressed / "metrics.csv").open() as file:
        log = list(csv.DictReader(file))
    assert len(log) == report["best_epoch"] and float(log[-1]["train_accuracy"]) == 1


def test_predictions_are_out_of_fold_where_the_final_model_has_learned(workplace, regressed):
    found = predictions.load(regressed / "predictions.npz")
    assert len(found) == 90
    assert ((found.folds >= 0) == (found.splits != "test")).all() and found.folds.max() == 4
    predictor = Predictor.load(regressed)
    images = np.stack([load_image(workplace / "photos" / name, predictor.preprocessing) for name in found.names])
    final = predictor.run(images)[0]
    test = found.splits == "test"
    np.testing.assert_allclose(found.logits[test], final[test], rtol=1e-3, atol=1e-3)
    assert np.abs(found.logits[~test] - final[~test]).max() > 1e-2
    report = json.loads((regressed / "report.json").read_text())
    assert report["val"]["count"] == int((~test).sum())
    assert report["judge"]["temperature"] == found.judge().temperature >= 1


def test_a_val_folder_of_ones_own_stays_apart(workplace, regressed):
    for split, names in (("train", range(20)), ("val", range(20, 26)), ("test", range(26, 30))):
        for label in ("blue", "green", "red"):
            (workplace / "own" / split / label).mkdir(parents=True)
            for i in names:
                shutil.copy(workplace / "photos" / label / f"{i:03}.png", workplace / "own" / split / label)
    run(workplace, "--data", "own", "--name", "own", *REGRESSION, "--views", "1")
    found = predictions.load(workplace / "runs" / "own" / "predictions.npz")
    assert found.own_val and set(found.folds[found.splits == "val"]) == {5}
    assert set(found.folds[found.splits == "train"]) == set(range(5))
    report = json.loads((workplace / "runs" / "own" / "report.json").read_text())
    assert report["val"]["count"] == 18 and report["test"]["count"] == 12
    assert report["computed"] == {"decoded": 0, "rows": 0}  # the same contents, in other folders


def test_ten_more_photos_are_ten_computed(workplace, regressed):
    shutil.copytree(workplace / "photos", workplace / "grown")
    write_photos(workplace / "grown", {"blue2": 10}, seed=5)
    for path in (workplace / "grown" / "blue2").iterdir():
        path.rename(workplace / "grown" / "blue" / f"new {path.name}")
    (workplace / "grown" / "blue2").rmdir()
    run(workplace, "--data", "grown", "--name", "grown", *REGRESSION, "--views", "1")
    assert json.loads((workplace / "runs" / "grown" / "report.json").read_text())["computed"] == {
        "decoded": 10,
        "rows": 10,
    }
    before, after = (predictions.load(workplace / "runs" / name / "predictions.npz") for name in ("regressed", "grown"))
    places = dict(zip(after.contents, after.splits, strict=True))
    assert [places[content] for content in before.contents] == before.splits.tolist()


def test_the_same_command_gives_the_same_bits_and_never_overwrites(workplace, finished):
    run(workplace, "--name", "whole")
    assert figures(workplace / "runs" / "whole2") == figures(finished)


@pytest.mark.slow
@pytest.mark.parametrize(("whole", "options", "moment"), [
    ("finished", (), "features"),
    ("finished", (), "training"),
    ("finetuned", BLOCK5, "features"),
    ("finetuned", BLOCK5, "training"),
    ("regressed", REGRESSION, "features"),
])  # fmt: skip
def test_kill_9_and_resume_ends_with_the_same_bits(workplace, request, whole, options, moment):
    name, whole = f"killed-{whole}-{moment}", request.getfixturevalue(whole)
    cache = workplace / f"cache-{name}"
    process = subprocess.Popen(
        command("--data", "photos", *QUICK, *options, "--name", name),
        cwd=workplace, env=environment(workplace, VGG_FLAX_CACHE=str(cache)), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    reached = {
        "features": lambda: any(path.stat().st_size for path in cache.glob("rows/pooled-*/keys")),
        "training": lambda: any((workplace / "runs" / name / "checkpoints").glob("2")),
    }[moment]
    while not reached() and process.poll() is None:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workplace / "runs" / name / "report.json").exists(), "it ended before it could be killed"
    run(workplace, "--name", name, "--resume", *options, VGG_FLAX_CACHE=str(cache))
    assert figures(workplace / "runs" / name) == figures(whole)


def test_a_fine_tuned_run_scores_what_its_bundle_predicts(workplace, finetuned, finished):
    arrays, before = (
        safetensors.numpy.load_file(folder / "model" / "model.safetensors") for folder in (finetuned, finished)
    )
    moved = {name for name in arrays if name.startswith("backbone") and (arrays[name] != before[name]).any()}
    assert {name for name in moved if name.endswith("kernel")} == {f"backbone/block5_conv{i}/kernel" for i in (1, 2, 3)}
    assert all(name.startswith("backbone/block5") for name in moved)
    report = json.loads((finetuned / "report.json").read_text())
    predictor = Predictor.load(finetuned)
    for split in ("val", "test"):
        with (finetuned / "split.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == split]
        found = np.stack([predictor.predict_file(workplace / "photos" / row["file"]).probabilities for row in rows])
        labels = [predictor.classes.index(row["label"]) for row in rows]
        right = found[np.arange(len(rows)), labels]
        assert report[split]["loss"] == pytest.approx(-np.log(right).mean(), rel=1e-4)
        assert report[split]["accuracy"] == np.mean(found.argmax(-1) == labels)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_go_on(workplace, finished, number, code):
    name = f"stopped-{code}"
    process = subprocess.Popen(
        command("--data", "photos", *QUICK, "--name", name, "--epochs", "5000"),
        cwd=workplace, env=environment(workplace), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    checkpoints = workplace / "runs" / name / "checkpoints"
    while not any(checkpoints.glob("[0-9]*")):
        assert process.poll() is None
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"--resume --name {name}" in printed
    saved = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdigit())
    with (workplace / "runs" / name / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == saved


def test_resume_refuses_changed_data_and_changed_settings(workplace, finished):
    shutil.copytree(workplace / "photos", workplace / "copy")
    run(workplace, "--data", "copy", "--name", "changing")
    answer = run(workplace, "--data", "copy", "--name", "changing", "--resume", "--seed", "3", code=2)
    assert "--seed is 3 but runs/changing was started with 0" in answer.stderr
    (workplace / "copy" / "red" / "000.png").write_bytes((workplace / "copy" / "red" / "001.png").read_bytes())
    answer = run(workplace, "--data", "copy", "--name", "changing", "--resume", code=2)
    assert "the photos in copy changed since runs/changing was started" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(("options", "message"), [
    (("--data", "nowhere"), "--data nowhere does not exist"),
    (("--data", "texts"), "has no class folders"),
    (("--weights", "missing.h5"), "no such file or folder"),
    (("--resume", "--project", "elsewhere"), "no run in elsewhere to go on with"),
])  # fmt: skip
def test_what_a_person_can_fix_is_one_line_and_leaves_nothing_behind(workplace, options, message):
    (workplace / "texts").mkdir(exist_ok=True)
    (workplace / "texts" / "a.txt").write_text("a")
    before = set((workplace / "runs").iterdir()) if (workplace / "runs").exists() else set()
    answer = run(workplace, *options, code=2)
    errors = [line for line in answer.stderr.splitlines() if not line.startswith("run: ")]
    assert len(errors) == 1 and message in errors[0]
    assert answer.stdout == ""
    assert not (workplace / "runs").exists() or set((workplace / "runs").iterdir()) == before


def test_weights_are_found_before_a_photo_is_read(workplace):
    answer = run(workplace, "--data", "nowhere", "--weights", "missing.h5", code=2)
    assert "missing.h5" in answer.stderr and "nowhere" not in answer.stderr


def test_a_loss_that_explodes_stops_with_advice(workplace, finished):
    answer = run(workplace, "--name", "exploding", "--lr", "1e38", code=2)
    assert "try an --lr below 1e+38" in answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize("options", [
    ("--model", "vgg19", "--head", "mlp", "--dropout", "0.2"),
    ("--cache", "none", "--blocks", "5"),
    (*REGRESSION, "--views", "2", "--blocks", "5", "--weight-decay", "0.01"),
    ("--model", "vgg19", *REGRESSION),
    (*BLOCK5, "--cache", "none"),
    (*BLOCK5, *NOTEBOOK, "--epochs", "8"),
    (*BLOCK5, "--precision", "bfloat16", "--epochs", "4"),
    ("--unfreeze", "all", "--lr", "0.0001", "--epochs", "3"),
    (*NOTEBOOK, "--epochs", "12"),
    ("--precision", "bfloat16", "--epochs", "2"),
], ids=" ".join)  # fmt: skip
def test_every_way_to_train(workplace, options):
    name = "-".join(options).strip("-")
    run(workplace, "--name", name, *options)
    report = json.loads((workplace / "runs" / name / "report.json").read_text())
    assert report["test"]["accuracy"] > 0.9  # half of the test pictures are of one class


def test_a_model_that_has_learned_nothing_says_so_on_screen_in_the_report_and_in_the_last_line(workplace):
    write_photos(workplace / "uneven", {"common": 76})
    (workplace / "uneven" / "rare").mkdir()
    for path in sorted((workplace / "uneven" / "common").iterdir())[:4]:  # of the same kind: nothing tells them apart
        path.rename(workplace / "uneven" / "rare" / path.name)
    answer = run(workplace, "--data", "uneven", "--name", "uneven", *REGRESSION, "--views", "1")
    report = json.loads((workplace / "runs" / "uneven" / "report.json").read_text())
    assert report["test"]["accuracy"] <= report["test"]["majority_baseline"]
    words = "of always answering 'common'"
    assert any(words in warning for warning in report["warnings"])
    assert f"warning: {report['warnings'][0]}" in answer.stderr
    assert words in answer.stderr and words in answer.stdout.splitlines()[-1]
    assert any("fewer than 5 test pictures of 'rare'" in warning for warning in report["warnings"])
    assert report["photos"]["files"] == 76


def test_own_splits_that_lack_a_class_are_measured_on_the_others(workplace, regressed):
    for split, names, labels in (
        ("training_set", range(20), ("blue", "green", "red")),
        ("val_set", range(20, 25), ("blue", "red")),
        ("test_set", range(24, 30), ("blue", "green")),
    ):
        for label in labels:
            (workplace / "lacking" / split / label).mkdir(parents=True)
            for i in names:
                shutil.copy(workplace / "photos" / label / f"{i:03}.png", workplace / "lacking" / split / label)
    answer = run(workplace, "--data", "lacking", "--name", "lacking", *REGRESSION, "--views", "1")
    assert "your own splits: train from training_set, val from val_set, test from test_set" in answer.stderr
    report = json.loads((workplace / "runs" / "lacking" / "report.json").read_text())
    assert report["warnings"][:3] == [
        "val_set has no pictures of 'green': figures are of the other 2 only",
        "test_set has no pictures of 'red': figures are of the other 2 only",
        "1 photo of val also in test, or with a near-copy there: left out of val",
    ]
    assert report["test"]["count"] == 12 and report["test"]["macro_f1"] > 0.9
    assert report["photos"]["left_out_for_overlap"] == {"val with test": 1}
    with (workplace / "runs" / "lacking" / "split.csv").open() as file:
        assert [row["file"] for row in csv.DictReader(file) if row["split"] == "left_out"] == ["val_set/blue/024.png"]


def test_a_zip_of_photos_trains_like_its_folder(workplace, regressed):
    shutil.make_archive(str(workplace / "photos"), "zip", workplace / "photos")
    run(workplace, "--data", "photos.zip", "--name", "zipped", *REGRESSION)
    zipped, folder = (figures(workplace / "runs" / name) for name in ("zipped", "regressed"))
    assert zipped[1:] == folder[1:] and zipped[0]["test"] == folder[0]["test"]
    assert json.loads((workplace / "runs" / "zipped" / "report.json").read_text())["computed"] == {
        "decoded": 0,
        "rows": 0,
    }


def test_a_finished_run_is_a_source_of_weights(workplace, finished):
    run(workplace, "--name", "second-life", "--weights", "runs/whole")
    first, second = (
        safetensors.numpy.load_file(workplace / "runs" / name / "model" / "model.safetensors")
        for name in ("whole", "second-life")
    )
    np.testing.assert_array_equal(first["backbone/block5_conv3/kernel"], second["backbone/block5_conv3/kernel"])


def test_two_runs_cannot_share_a_folder(workplace, finished):
    from filelock import FileLock

    with FileLock(finished / ".lock"):
        answer = run(workplace, "--name", "whole", "--resume", code=2)
    assert "is in use by another process" in answer.stderr


def test_digits_go_on_with_random_weights_where_nothing_can_be_fetched(workplace):
    answer = subprocess.run(
        command("--image-size", "32", "--epochs", "5", "--name", "offline", "--blocks", "5"),
        cwd=workplace, env=environment(workplace, https_proxy="http://127.0.0.1:9", PIP_NO_INDEX="1"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "RANDOM weights" in answer.stderr
    assert json.loads((workplace / "runs" / "offline" / "report.json").read_text())["random_weights"] is True
