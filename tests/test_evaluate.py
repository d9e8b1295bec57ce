"""`vgg-flax evaluate`: labelled photos that a model has not learned from, and no others."""

import dataclasses
import hashlib
import json
import shutil

import numpy as np
import pages
import pytest
from conftest import write_photos

from vgg_flax.answers import bundle
from vgg_flax.answers import predictions as tables
from vgg_flax.answers.judge import with_references
from vgg_flax.answers.predictor import Predictor
from vgg_flax.commands import evaluate
from vgg_flax.errors import UserError
from vgg_flax.network import model, params
from vgg_flax.settings import EvaluateSettings


@pytest.fixture
def saved(small_spec, preprocessing, tmp_path, cache, monkeypatch):
    """A model of blue, green and red pictures, that has learned nothing."""
    rng = np.random.default_rng(0)
    shapes = params.flatten(model.abstract_params(small_spec))
    flat = {path: rng.normal(size=leaf.shape, scale=0.3).astype(np.float32) for path, leaf in shapes.items()}
    flat["head/standardize/std"] = np.abs(flat["head/standardize/std"]) + 0.5
    record = bundle.Bundle(small_spec, params.unflatten(flat), ("blue", "green", "red"), preprocessing)
    bundle.save(record, tmp_path / "run" / "model")
    monkeypatch.chdir(tmp_path)
    return record


def measure(**options):
    return evaluate.evaluate(EvaluateSettings("run", "photos", **options), lambda: None)


def test_the_numbers_are_those_of_the_predictor(saved, photos):
    folder = measure()
    assert str(folder) == "runs/evaluate"
    assert {path.name for path in folder.iterdir()} == {
        "report.json", "predictions.npz", "confusion_matrix.png", "confusion_matrix_normalized.png", "mistakes.png",
        "report.html",
    }  # fmt: skip
    report, table = json.loads((folder / "report.json").read_text()), tables.load(folder / "predictions.npz")
    predictor = Predictor.load("run")
    labels = [predictor.predict_file(photos / name).label for name in table.names]
    right = sum(label == name.split("/")[0] for label, name in zip(labels, table.names, strict=True))
    assert report["test"]["count"] == 30 and report["test"]["accuracy"] == right / 30
    assert measure().name == "evaluate2"


def test_photos_that_the_model_has_learned_from_are_left_out_and_counted(saved, photos, tmp_path, capsys):
    some = sorted(photos.glob("*/00[0-3].png"))
    seen = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in some)
    judge = dataclasses.replace(saved.judge, seen=seen)
    averages = np.random.default_rng(0).random((12, 8), np.float32)
    judge = with_references(judge, averages, np.zeros(12, int), [str(i) for i in range(12)])
    bundle.save(dataclasses.replace(saved, judge=judge), tmp_path / "run" / "model")
    report = json.loads((measure() / "report.json").read_text())
    assert report["test"]["count"] == 18 and report["photos"]["left_out_as_seen"] == 12
    assert "12 photos are left out: run has learned from them" in capsys.readouterr().err
    for path in photos.glob("*/00[4-9].png"):
        path.unlink()
    with pytest.raises(UserError, match=r"nothing to measure on: run has learned from all 12 photos in photos"):
        measure()


def test_mistakes_stand_beside_the_training_photos_that_are_like_them(saved, photos, tmp_path):
    trained = write_photos(tmp_path / "trained", {"blue": 4, "green": 4, "red": 4}, seed=5)
    files = [path.rename(path.with_name(f"old{path.name}")) for path in sorted(trained.glob("*/*.png"))]
    names = [path.relative_to(trained).as_posix() for path in files]
    seen = b"".join(hashlib.sha256((trained / name).read_bytes()).digest() for name in names)
    averages = np.random.default_rng(0).random((12, 8), np.float32)
    judge = with_references(dataclasses.replace(saved.judge, seen=seen), averages, np.zeros(12, int), names)
    training = {"data": "trained", "settings": {"label": None}}
    bundle.save(dataclasses.replace(saved, judge=judge, training=training), tmp_path / "run" / "model")

    def neighbours(folder):
        found = pages.read(folder / "report.html")
        return {a["title"] for tag, a in found.tags if tag == "img" and "title" in a}, found.text

    pictures, text = neighbours(folder := measure())
    assert pictures and pictures <= set(names) and not any(name in text for name in names)
    table = tables.load(folder / "predictions.npz")
    assert table.references.tolist() == names and table.nearest.min() >= 0
    (trained / names[0]).write_bytes((photos / "red" / "000.png").read_bytes())
    assert names[0] in pictures
    assert neighbours(measure())[0] == pictures - {names[0]}, "another photo of that name is not shown"
    shutil.rmtree(trained)
    pictures, text = neighbours(measure())
    assert not pictures and any(name in text for name in names)


def test_classes_are_matched_by_name_whatever_their_order(saved, photos):
    whole = json.loads((measure() / "report.json").read_text())["test"]["per_class"]
    assert list(whole) == ["blue", "green", "red"]
    shutil.rmtree(photos / "blue")
    with pytest.raises(UserError, match=r"no photos of the model's 'blue'\. Classes are matched by name.*--partial"):
        measure()
    part = json.loads((measure(partial=True) / "report.json").read_text())
    assert part["test"]["per_class"]["red"]["recall"] == whole["red"]["recall"]
    assert part["test"]["per_class"]["blue"]["support"] == 0 and part["test"]["count"] == 20


def test_a_class_that_the_model_does_not_know_is_named_with_the_nearest(saved, photos):
    (photos / "red").rename(photos / "redd")
    with pytest.raises(
        UserError, match=r"classes that the model does not know: 'redd' \(did you mean red\?\); no photos"
    ):
        measure()
    report = json.loads((measure(partial=True) / "report.json").read_text())
    assert report["test"]["count"] == 20 and report["photos"]["left_out_as_unknown"] == 10


def test_no_class_in_common_is_refused_even_with_partial(saved, tmp_path):
    shutil.rmtree(tmp_path / "photos", ignore_errors=True)
    write_photos(tmp_path / "photos", {"cat": 3, "dog": 3})
    with pytest.raises(
        UserError, match=r"does not know: 'cat', 'dog'; no photos of the model's 'blue', 'green', 'red'"
    ):
        measure(partial=True)
