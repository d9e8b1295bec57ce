"""train.py as people run it: in a process of its own, on small pictures, with random weights."""

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

from vgg_flax.answers.predictor import Predictor

REPOSITORY = Path(__file__).parents[1]
QUICK = [
    "--weights", "random", "--image-size", "32", "--epochs", "6", "--engine", "xla",
    "--lr", "0.01", "--features", "all", "--weight-decay", "0.01",
]  # fmt: skip
BLOCK5 = ("--unfreeze", "block5", "--features", "block5", "--lr", "0.001")
LEFT = {
    "config.yaml", "metrics.csv", "checkpoints", "model", "report.json", "curves.png", "confusion_matrix.png",
    "confusion_matrix_normalized.png", "mistakes.png", "split.csv", "bad_files.csv",
}  # fmt: skip


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with photos, a cache and room for runs, shared by the tests of this file."""
    folder = tmp_path_factory.mktemp("work")
    write_photos(folder / "photos", {"blue": 24, "green": 24, "red": 24})
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
    report.pop("timings")
    with (folder / "metrics.csv").open() as file:
        log = [
            {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in csv.DictReader(file)
        ]
    arrays = safetensors.numpy.load_file(folder / "model" / "model.safetensors")
    return report, log, {name: array.tobytes() for name, array in arrays.items()}


@pytest.fixture(scope="module")
def finished(workplace):
    """An undisturbed run."""
    run(workplace, "--name", "whole")
    return workplace / "runs" / "whole"


@pytest.fixture(scope="module")
def finetuned(workplace):
    """An undisturbed run that trains block5 from stored outputs of block4."""
    run(workplace, "--name", "finetuned", *BLOCK5)
    return workplace / "runs" / "finetuned"


def test_a_run_leaves_everything_behind_and_learns_colours(finished):
    names = {path.name for path in finished.iterdir() if not path.name.startswith(".")}
    assert {name for name in names if not name.startswith("events")} == LEFT
    assert any(name.startswith("events.out.tfevents") for name in names)
    report = json.loads((finished / "report.json").read_text())
    assert report["test"]["accuracy"] == 1.0 and report["test"]["count"] == 15
    assert report["random_weights"] is True
    assert np.sum(report["test"]["confusion_matrix"]) == 15
    with (finished / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 72 and {row["split"] for row in rows} == {"train", "val", "test"}
    assert all(row["file"].startswith(row["label"]) for row in rows)
    settings = yaml.safe_load((finished / "config.yaml").read_text())["settings"]
    assert settings["epochs"] == 6 and settings["augment"]["flip"] is True
    with (finished / "metrics.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == list("123456")


def test_the_same_command_gives_the_same_bits_and_never_overwrites(workplace, finished):
    run(workplace, "--name", "whole")
    assert figures(workplace / "runs" / "whole2") == figures(finished)


@pytest.mark.parametrize("moment", ["features", "training"])
@pytest.mark.parametrize(("whole", "options"), [("finished", ()), ("finetuned", BLOCK5)])
def test_kill_9_and_resume_ends_with_the_same_bits(workplace, request, whole, options, moment):
    name, whole = f"killed-{whole}-{moment}", request.getfixturevalue(whole)
    cache = workplace / f"cache-{name}"
    process = subprocess.Popen(
        command("--data", "photos", *QUICK, *options, "--name", name),
        cwd=workplace, env=environment(workplace, VGG_FLAX_CACHE=str(cache)), stdout=subprocess.DEVNULL,
    )  # fmt: skip
    reached = {
        "features": lambda: any(cache.glob("features/*.part")),
        "training": lambda: any((workplace / "runs" / name / "checkpoints").glob("2")),
    }[moment]
    while not reached():
        assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (workplace / "runs" / name / "report.json").exists()
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
        cwd=workplace, env=environment(workplace), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    checkpoints = workplace / "runs" / name / "checkpoints"
    while not any(checkpoints.glob("[0-9]*")):
        assert process.poll() is None
    process.send_signal(number)
    printed, _ = process.communicate(timeout=30)
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
    assert "the pictures in copy changed since runs/changing was started" in answer.stderr
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(("options", "message"), [
    (("--data", "nowhere"), "--data nowhere does not exist"),
    (("--data", "texts"), "has no class folders"),
    (("--weights", "missing.h5"), "no such file or folder"),
    (("--resume", "--project", "elsewhere"), "no run in elsewhere to go on with"),
])  # fmt: skip
def test_what_a_person_can_mend_is_one_line(workplace, options, message):
    (workplace / "texts").mkdir(exist_ok=True)
    (workplace / "texts" / "a.txt").write_text("a")
    answer = run(workplace, *options, code=2)
    assert message in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert "Traceback" not in answer.stdout


def test_a_loss_that_explodes_stops_with_advice(workplace, finished):
    answer = run(workplace, "--name", "exploding", "--lr", "1e38", code=2)
    assert "try an --lr below 1e+38" in answer.stderr


@pytest.mark.parametrize("options", [
    ("--model", "vgg19", "--head", "mlp", "--dropout", "0.2"),
    ("--cache", "none", "--features", "block5"),
    ("--features", "auto", "--head", "logreg"),
    (*BLOCK5, "--cache", "none"),
    (*BLOCK5, "--head", "notebook", "--epochs", "2"),
    (*BLOCK5, "--precision", "bfloat16", "--epochs", "4"),
    ("--unfreeze", "all", "--epochs", "2"),
    ("--head", "notebook", "--lr", "0.001"),
    ("--precision", "bfloat16", "--epochs", "2"),
], ids=" ".join)  # fmt: skip
def test_every_way_to_train(workplace, options):
    name = "-".join(options).strip("-")
    run(workplace, "--name", name, *options)
    report = json.loads((workplace / "runs" / name / "report.json").read_text())
    assert report["test"]["accuracy"] > 0.6


def test_without_random_views_the_cache_changes_nothing(workplace, finished):
    reports = []
    for cache in ("features", "none"):
        run(workplace, "--name", f"views-{cache}", "--views", "1", "--cache", cache)
        reports.append(figures(workplace / "runs" / f"views-{cache}")[0])
    assert reports[0]["test"]["loss"] == pytest.approx(reports[1]["test"]["loss"], rel=1e-3)
    assert reports[0]["test"]["confusion_matrix"] == reports[1]["test"]["confusion_matrix"]


def test_a_finished_run_is_a_source_of_weights(workplace, finished):
    run(workplace, "--name", "second-life", "--weights", "runs/whole")
    first, second = (
        safetensors.numpy.load_file(workplace / "runs" / name / "model" / "model.safetensors")
        for name in ("whole", "second-life")
    )
    np.testing.assert_array_equal(first["backbone/block5_conv3/kernel"], second["backbone/block5_conv3/kernel"])


def test_what_is_left_open_is_searched_and_written_down(workplace, finished):
    options = ("--data", "photos", "--weights", "random", "--image-size", "32", "--epochs", "3", "--engine", "xla")
    answer = subprocess.run(
        command(*options, "--name", "searched"),
        cwd=workplace,
        env=environment(workplace),
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert "36 heads tried" in answer.stdout
    with (workplace / "runs" / "searched" / "search.csv").open() as file:
        tried = list(csv.DictReader(file))
    chosen = json.loads((workplace / "runs" / "searched" / "report.json").read_text())["chosen"]
    assert len(tried) == 36
    assert (tried[0]["features"], float(tried[0]["lr"])) == (chosen["features"], chosen["lr"])
    bundle = json.loads((workplace / "runs" / "searched" / "model" / "model.json").read_text())
    assert bundle["head"]["features"] == chosen["features"]


def test_two_runs_cannot_share_a_folder(workplace, finished):
    from filelock import FileLock

    with FileLock(finished / ".lock"):
        answer = run(workplace, "--name", "whole", "--resume", code=2)
    assert "is in use by another process" in answer.stderr


def test_digits_go_on_with_random_weights_where_nothing_can_be_fetched(workplace):
    answer = subprocess.run(
        command("--image-size", "32", "--epochs", "1", "--views", "1", "--name", "offline", "--features", "block3"),
        cwd=workplace, env=environment(workplace, https_proxy="http://127.0.0.1:9", PIP_NO_INDEX="1"),
        capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "RANDOM weights" in answer.stdout
    assert json.loads((workplace / "runs" / "offline" / "report.json").read_text())["random_weights"] is True
