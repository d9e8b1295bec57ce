"""The model card of a hub folder: it says what the run measured, its commands work, and any name reads as itself."""

import contextlib
import dataclasses
import html
import json
import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import write_photos
from markdown_it import MarkdownIt
from test_convert_export import make
from test_convert_files import KERAS_NOISE

from vgg_flax.__main__ import main as vgg_flax
from vgg_flax.answers import bundle
from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictions import Predictions
from vgg_flax.answers.predictor import Predictor
from vgg_flax.cli import parse
from vgg_flax.commands.convert import main
from vgg_flax.errors import UserError
from vgg_flax.insight.metrics import evaluate, supports
from vgg_flax.settings import TrainSettings, from_flat, to_flat
from vgg_flax.training import runs
from vgg_flax.webcam_settings import WebcamSettings
from weights_convert import writers
from weights_convert.writers import card, hub

pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)
REPOSITORY = Path(__file__).parents[1]
FILES = {"README.md", "model.json", "model.safetensors"}
SECTIONS = [
    "How to use it", "Training data", "Training", "Results", "Preprocessing", "Intended use and limits",
    "Where the weights came from",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run as people make them, on photos that lie in a folder with a person's name."""
    folder = tmp_path_factory.mktemp("work") / "Jo Doe"
    photos = write_photos(folder / "my photos", {"blue": 24, "green": 24, "red": 24})
    options = ["--data", photos, "--project", folder / "runs", "--name", "colours", "--lr", "0.01", "--epochs", "3"]
    options += ["--weights", "random", "--image-size", "32", "--engine", "xla", "--head", "linear"]
    done = subprocess.run(
        [sys.executable, "-m", "vgg_flax", "train", *options, "--weight-decay", "0.01"],
        env=os.environ | {"VGG_FLAX_CACHE": str(folder / "cache"), "JAX_PLATFORMS": "cpu"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "colours"


@pytest.fixture(scope="module")
def exported(run):
    """The same run as a hub folder."""
    main(["export", str(run), str(run.parents[1] / "colours"), "--format", "hub"])
    return run.parents[1] / "colours"


def trained(matrix, classes=("ant", "bee", "cat"), data="/home/jo/insects", chosen=None, **settings):
    """A small model whose record is as `vgg-flax train` writes it, with this confusion matrix in the test."""
    labels = np.repeat(np.arange(len(classes)), np.sum(matrix, 1))
    called = np.concatenate([np.repeat(np.arange(len(classes)), row) for row in matrix])
    logits, names = 3.0 * np.eye(len(classes), dtype="f4")[called], labels.astype(str)
    folds, splits = np.full(len(labels), -1), np.full(len(labels), "test")
    unknown = np.full(len(labels), np.nan), np.full((len(labels), 5), -1), np.array([], str)
    seen = Predictions(np.array(classes), names, names, splits, labels, logits, folds, *unknown, np.array(False))
    metrics = evaluate(seen, Judge(1.7))
    record = {"data": data, "weights": "ImageNet, Keras's file", "random_weights": False, "best_epoch": 3}
    record |= {"train": supports(seen), "test": metrics, "val": metrics, "chosen": chosen or {}}
    flat = to_flat(from_flat(TrainSettings, {"data": data, **settings}))
    record["settings"] = {name: value for name, value in flat.items() if name not in runs.NOT_KEPT}
    ours = make()
    head = dataclasses.replace(ours.spec.head, classes=len(classes))
    last = ours.params["head"]["predictions"]
    wide = {"kernel": np.ones((last["kernel"].shape[0], len(classes)), "f4"), "bias": np.zeros(len(classes), "f4")}
    network = {**ours.params, "head": {**ours.params["head"], "predictions": wide}}
    spec = dataclasses.replace(ours.spec, head=head)
    return dataclasses.replace(ours, spec=spec, classes=tuple(classes), params=network, training=record)


def text_of(ours, name="model"):
    return card.compose(writers.published(ours), name)


def metadata(text):
    return yaml.safe_load(text.split("---\n")[1])


def rendered(text):
    """The page as HTML, without the metadata."""
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text.split("---\n", 2)[2])


def tables(text):
    """Every table as rows of cells, as a reader sees them."""
    found = re.findall("<table>(.*?)</table>", rendered(text), re.DOTALL)
    rows = [re.findall("<tr>(.*?)</tr>", one, re.DOTALL) for one in found]
    return [[[html.unescape(c) for c in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", r)] for r in one] for one in rows]


def cells(text):
    return {cell for one in tables(text) for row in one for cell in row}


def block(text, language):
    return re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)[1]


# What the card says


def test_the_card_has_the_figures_of_the_run(run, exported):
    report = json.loads((run / "report.json").read_text())
    assert {path.name for path in exported.iterdir()} == FILES
    text = (exported / "README.md").read_text()
    test = report["test"]
    assert f"**{test['accuracy']:.2%}** of {test['count']} test pictures" in text
    found = metadata(text)
    result = found["model-index"][0]["results"][0]
    assert found["model-index"][0]["name"] == "colours" and "license" not in found
    assert found["library_name"] == "vgg_flax" and found["pipeline_tag"] == "image-classification"
    assert result["task"]["type"] == "image-classification"
    assert result["dataset"] == {"name": "my photos", "type": "imagefolder", "split": "test"}
    figures = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert figures == {"accuracy": round(test["accuracy"], 4), "f1": round(test["macro_f1"], 4)}
    assert re.findall("^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert "started from random numbers" in text
    matrix = [
        [name, *map(str, row)] for name, row in zip(("blue", "green", "red"), test["confusion_matrix"], strict=True)
    ]
    _, counts, _, results, _, confusion, _ = tables(text)
    assert confusion == [["", "blue", "green", "red"], *matrix]
    train = 72 - report["val"]["count"] - test["count"]
    assert train > 30 and test["count"] > 5
    assert counts[-1] == ["all", str(train), str(report["val"]["count"]), str(test["count"])]
    assert sum(int(row[1]) for row in counts[1:-1]) == train
    assert [row[1:] for row in results if row[0] == "log loss, nats"] == [
        [f"{report[split]['loss']:.4f}" for split in ("test", "val")]
    ]
    assert bundle.load(exported).training["test"] == test


def test_the_commands_on_the_card_work(tmp_path, monkeypatch, capsys):
    writers.write(trained([[9, 1, 0], [0, 9, 0], [0, 0, 9]]), tmp_path / "colours", "hub")
    write_photos(tmp_path / "all", {"red": 3})
    (tmp_path / "all" / "red").rename(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test run keeps its own handlers
    (tmp_path / "photo.jpg").write_bytes(next((tmp_path / "photos").iterdir()).read_bytes())
    text = Path("colours/README.md").read_text()
    exec(block(text, "python"), {})
    ours = Predictor.load("colours")
    expected = ours.predict_file("photo.jpg")
    label, probabilities = capsys.readouterr().out.splitlines()
    assert label.startswith(f"{expected.label} 0.") or label == f"{expected.label} 1.0"
    assert list(json.loads(probabilities.replace("'", '"'))) == list(ours.classes)

    live, folder = (shlex.split(line) for line in block(text, "sh").splitlines())
    assert live[:2] == folder[:2] == ["vgg-flax", "webcam"]
    assert parse(WebcamSettings, args=live[2:]).model == Path("colours")
    with contextlib.suppress(SystemExit):
        vgg_flax(folder[1:])
    labels = [json.loads(line)["label"] for line in (tmp_path / "labels.jsonl").read_text().splitlines()]
    assert labels == [ours.predict_file(photo).label for photo in sorted((tmp_path / "photos").iterdir())]


def wilson(correct, count, z=1.959963984540054):
    """The interval in closed form: Wilson, J. Am. Stat. Assoc. 22 (1927) 209."""
    share = correct / count
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return f"{middle - half:.1%} to {middle + half:.1%}"


def test_uncertainty_is_wilson_s_from_the_number_of_test_pictures():
    text = text_of(trained([[40, 2, 0], [1, 29, 0], [5, 0, 7]]))
    assert f"**90.48%** of 84 test pictures (95 % interval {wilson(76, 84)})" in text
    assert f"A test of 84 pictures says no more than that the accuracy is {wilson(76, 84)}," in text
    for correct, count in ((40, 42), (29, 30), (7, 12)):
        assert f"{correct / count:.1%} ({wilson(correct, count)})" in cells(text)
    shares = np.array([42, 30, 12]) / 84
    assert f"{-(shares * np.log(shares)).sum():.4f}" in cells(text)


def test_limits_come_from_the_test():
    text = text_of(trained([[40, 2, 0], [1, 29, 0], [5, 0, 7]]))
    assert 'Fewer than 30 test pictures, too few to judge these classes by: "cat" (12).' in text
    assert 'Most often confused: 5 of 12 pictures of "cat" were called "ant".' in text
    assert 'pictures like those of "insects"' in text and "one of these 3 labels" in text
    text = text_of(trained([[30, 0, 0], [0, 30, 0], [0, 0, 30]]))
    assert "Fewer than" not in text and "confused" not in text and "No test picture got a wrong label." in text
    text = text_of(trained([[30, 0, 0], [0, 30, 0], [0, 0, 0]]))
    assert '"cat" (0)' in text and "-" in cells(text)


@pytest.mark.parametrize(("settings", "says"), [
    ({"head": "linear"}, ["frozen", "AdamW, learning rate 0.001 at its peak, weight decay 0.01, batches of 32"]),
    ({"chosen": {"blocks": "4-5", "strength": 0.01}}, ["| head | regression |", "L-BFGS to convergence, L2 regular"]),
    ({"chosen": {"blocks": "4-5", "strength": 0.25}}, ["regularisation 0.25", "without the picture", "had not seen"]),
    ({"unfreeze": "block5", "views": 2}, ["block 5 trained with the head", "1 of each picture, up to", "mirror image"]),
    ({"unfreeze": "all", "views": 2}, ["backbone | trained with the head", "a new one in every epoch, up to: rot"]),
    ({"head": "notebook", "views": 1}, ["| random views | none |", "learning rate 0.0001", "| epochs | 5; kept: 3"]),
])  # fmt: skip
def test_training_settings_in_words(settings, says):
    text = text_of(trained([[9, 1, 0], [0, 9, 0], [0, 0, 9]], **settings))
    assert all(words in text for words in says), text
    assert ("AdamW" in text) != ("L-BFGS" in text)


@pytest.mark.parametrize(("data", "kind"), [
    ("digits", "digits"), ("tfds:tf_flowers", "tf_flowers"), ("/home/jo/insects/", "imagefolder"),
])  # fmt: skip
def test_the_data_is_named_as_a_hub_expects(data, kind):
    found = metadata(text_of(trained([[9, 1, 0], [0, 9, 0], [0, 0, 9]], data=data)))
    assert found["model-index"][0]["results"][0]["dataset"]["type"] == kind


def test_many_classes_are_not_printed_as_a_matrix():
    names = [f"kind {i}" for i in range(21)]
    text = text_of(trained(2 * np.eye(21, dtype=int), names))
    assert "Confusion matrix" not in text and "confusion matrix of 21 classes is in `model.json`" in text
    assert '"kind 19" and 1 more, which are in `model.json`' in text
    assert "kind 20" in cells(text)
    assert "Confusion matrix" in text_of(trained(2 * np.eye(20, dtype=int), names[:20]))


def test_an_imported_model_says_that_nothing_was_measured():
    chosen = "best of 12 on 64 photos of /home/jo/my photos, 2 others within chance of it"
    record = {"source": "old.h5 (Keras 2 .h5, whole model)", "recipe": "bgr-unit", "recipe_chosen": chosen}
    text = text_of(dataclasses.replace(make(), training=record))
    assert "No evaluation was run" in text and "imported from old.h5" in text and "jo" not in text
    assert "bgr-unit, best of 12 on 64 photos of my photos, 2 others within chance of it." in text
    assert re.findall("^## (.*)$", text, re.MULTILINE) == [SECTIONS[0], *SECTIONS[4:]]
    assert "model-index" not in metadata(text) and "metrics" not in metadata(text)
    assert not re.search("accuracy|calibrated|interval", text, re.IGNORECASE)


# Names that people and attackers give


ODD = [
    "a|b", "`code`", "two\nlines", "<script>alert(1)</script>", "---", "**bold**", "[x](http://evil.example)", "a\\|b",
    "it's: {yes}", "# title", "_x_", "with_mask", "&amp;", "www.evil.example", "me@evil.example", "$x$", "~~no~~", "\\",
]  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_any_class_name_reads_as_itself(name):
    text = text_of(trained([[9, 1, 0], [0, 9, 0], [0, 0, 9]], ("ant", name, "cat"), data=name, weights=name), name)
    page = rendered(text)
    assert " ".join(name.split()) in cells(text)
    assert not re.search(r"<(script|a|em|strong|s|del)[ >]", page.replace("<strong>96.43%</strong>", ""))
    assert len(re.findall("<h1>", page)) == 1 and len(re.findall("<table>", page)) == 7
    assert metadata(text)["model-index"][0]["name"] == " ".join(name.split())
    folder = re.search(r'Predictor\.load\("(.*)"\)', text)[1]
    assert re.fullmatch(r"[A-Za-z0-9._-]+", folder)


def test_a_name_that_no_encoding_has_is_written_all_the_same(tmp_path):
    """A folder's name on Linux is bytes; those that are no UTF-8 come as halves of surrogate pairs."""
    names = ("\udcff", "right\u202eleft", "犬 🐕")
    writers.write(trained([[9, 1, 0], [0, 9, 0], [0, 0, 9]], names), tmp_path / "m", "hub")
    text = (tmp_path / "m" / "README.md").read_text("utf-8")
    assert "\u202e" not in text and {"\ufffd", "right\ufffdleft", "犬 🐕"} <= cells(text)


@pytest.mark.parametrize("damage", [
    {"test": {}}, {"test": None}, {"settings": {}}, {"data": 3}, {"best_epoch": None, "val": []},
])  # fmt: skip
def test_a_foreign_record_is_one_line(tmp_path, damage):
    ours = trained([[9, 1, 0], [0, 9, 0], [0, 0, 9]])
    with pytest.raises(UserError, match="training record is not as `vgg-flax train` or `import` writes it"):
        writers.write(dataclasses.replace(ours, training=ours.training | damage), tmp_path / "m", "hub")
    assert not list(tmp_path.iterdir())


HOSTILE, ESCAPED = "*<b>`|x {{ 7 + 7 }}", "\\*&lt;b&gt;\\`&#124;x {{ 7 + 7 }}"
MEASURED = {"data", "weights", "best_epoch", "count", "support"}  # the last two of the training photos
RECORDS = {
    "imported": {"source": "a.h5", "recipe": "bgr", "recipe_chosen": "as was said"},
    "epochs": trained([[9, 1, 0], [0, 9, 0], [0, 0, 9]], head="linear", views=2).training,
    "folds": trained([[9, 1, 0], [0, 9, 0], [0, 0, 9]], chosen={"blocks": "4-5", "strength": 0.25}).training,
}


def leaves(value, path=()):
    """Where a record's values are; the first of a list stands for its others."""
    if isinstance(value, dict | list) and value:
        for key in value if isinstance(value, dict) else (0,):
            yield from leaves(value[key], (*path, key))
    else:
        yield path


def replaced(value, path, new):
    if not path:
        return new
    other = value.copy()
    other[path[0]] = replaced(value[path[0]], path[1:], new)
    return other


@pytest.mark.parametrize("value", [HOSTILE, 0, 10**400, None], ids=["text", "zero", "huge", "null"])
@pytest.mark.parametrize("kind", RECORDS)
def test_any_value_of_a_record_is_escaped_or_refused_in_a_line(tmp_path, monkeypatch, kind, value):
    monkeypatch.setattr(bundle, "save", lambda *_: None)
    record, ours, escaped = RECORDS[kind], make(), set()
    for path in leaves(record):
        changed = dataclasses.replace(ours, training=replaced(record, path, value))
        with contextlib.suppress(UserError):
            hub.write(changed, tmp_path, "hub")
            page = (tmp_path / "README.md").read_text("utf-8").split("---\n", 2)[2]
            assert HOSTILE not in page and "<b>" not in page, path
            escaped |= {path[-1]} if ESCAPED in page else set()
    if value == HOSTILE:  # where any text is taken, and shown
        assert escaped == ({"source", "recipe", "recipe_chosen"} if kind == "imported" else MEASURED)
