"""`vgg-flax predict`: what is named comes back a line each, in order, whatever is wrong with it."""

import csv
import io
import json
import os
import threading
import zipfile

import cv2
import numpy as np
import pytest
from conftest import write_photos

from vgg_flax.answers import bundle
from vgg_flax.answers.judge import Judge, with_references
from vgg_flax.answers.predictor import Predictor
from vgg_flax.answers.rows import SAID
from vgg_flax.commands import predict
from vgg_flax.data import named
from vgg_flax.errors import UserError
from vgg_flax.network import model, params
from vgg_flax.network.extract import Extractor, batch_size
from vgg_flax.settings import PredictSettings


@pytest.fixture
def saved(small_spec, preprocessing, tmp_path, cache):
    """A model on disk that knows twelve training photos, and is sure of nothing below 0.6."""
    rng = np.random.default_rng(0)
    shapes = params.flatten(model.abstract_params(small_spec))
    flat = {path: rng.normal(size=leaf.shape, scale=0.3).astype(np.float32) for path, leaf in shapes.items()}
    flat["head/standardize/std"] = np.abs(flat["head/standardize/std"]) + 0.5
    averages = rng.random((12, 8), np.float32)
    judge = with_references(Judge(1.7, sure=0.6), averages, np.zeros(12, int), [f"cat/{i}.jpg" for i in range(12)])
    record = bundle.Bundle(small_spec, params.unflatten(flat), ("cat", "dog", "émeu"), preprocessing, judge)
    bundle.save(record, tmp_path / "run" / "model")
    return tmp_path / "run"


def ask(saved, *sources, **options):
    predict.main(PredictSettings(saved, tuple(map(str, sources)), **options))


def test_json_says_what_the_predictor_says_in_the_order_of_the_sources(saved, photos, capsys):
    ask(saved, photos / "red", photos / "blue" / "003.png", json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == [f"{photos}/red/{i:03}.png" for i in range(10)] + [
        str(photos / "blue" / "003.png")
    ]
    predictor = Predictor.load(saved)
    for row in rows:
        expected = predictor.predict_file(row["file"])
        assert list(row) == ["file", *SAID]
        assert (row["verdict"], row["label"]) == (expected.verdict, expected.label)
        assert row["probability"] == pytest.approx(expected.probability, abs=1e-4)
        assert row["candidates"] == list(expected.candidates) and row["nearest"] == list(expected.nearest)
        assert row["probabilities"][row["label"]] == row["probability"] and len(row["probabilities"]) == 3


def test_csv_has_the_same_columns_and_lists_that_can_be_read_back(saved, photos, capsys):
    ask(saved, photos / "red" / "001.png", csv=True, topk=2)
    header, row = csv.reader(io.StringIO(capsys.readouterr().out))
    assert header == ["file", *SAID]
    values = dict(zip(header, row, strict=True))
    assert values["label"] in json.loads(values["candidates"])
    assert len(json.loads(values["probabilities"])) == 2 and len(json.loads(values["nearest"])) == 5


def test_patterns_archives_videos_and_standard_input(saved, photos, tmp_path, capsys, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(photos / "red" / "000.png", "inside/x.png")
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 40))
    for i in range(3):
        video.write(cv2.imread(str(photos / "red" / f"{i:03}.png")))
    video.release()
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos}/blue/000.png\n\n{photos}/blue/001.png\n"))
    ask(saved, f"{photos}/gr*/00[12].png", tmp_path / "a.zip", tmp_path / "v.avi", "-", json=True)
    names = [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()]
    assert names == [
        *(f"{photos}/green/{i:03}.png" for i in (1, 2)),
        f"{tmp_path}/a.zip/inside/x.png",
        *(f"{tmp_path}/v.avi#{i}" for i in range(3)),
        *(f"{photos}/blue/{i:03}.png" for i in (0, 1)),
    ]


def test_what_can_not_be_read_is_reported_in_its_place_with_exit_code_1(saved, photos, capsys):
    (photos / "red" / "0005.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit) as stop:
        ask(saved, photos / "red", json=True)
    assert stop.value.code == 1
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert [row["verdict"] for row in rows].index("unreadable") == 1 and len(rows) == 11
    assert rows[1]["label"] is None and rows[1]["probabilities"] is None
    assert "0005.png: not a picture" in printed.err


def test_the_table_has_a_column_for_each_thing(saved, photos, capsys):
    ask(saved, photos, topk=3)
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["label", "probability", "verdict", "file"] and len(lines) == 30
    verdict, file = header.index("verdict"), header.index("file")
    predictor = Predictor.load(saved)
    for line, path in zip(lines, sorted(photos.rglob("*.png")), strict=True):
        assert line[verdict:file].strip() == predict.VERDICTS[predictor.predict_file(path).verdict]
        assert line[:verdict].endswith("%  ") and line[file:].startswith(str(path))


def test_the_table_names_doubts_and_strangers_in_words():
    shares = {"ant": 0.6, "bee": 0.4}
    values = {"file": "a.png", "label": "ant", "probability": 0.6, "probabilities": shares, "candidates": [*shares]}
    lines = [predict._table_line(values | {"verdict": verdict}, 5, 1) for verdict in ("label", "unsure", "unlike")]
    assert lines == [
        "ant          60.0%              a.png",
        "ant          60.0%  not sure    a.png  (or bee)",
        "ant          60.0%  unlike      a.png",
    ]


def test_a_name_of_several_lines_stays_on_one(saved, photos, capsys):
    (photos / "red" / "000.png").rename(photos / "red" / "0\n\x1b[31m0.png")
    ask(saved, photos / "red")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11 and lines[1].endswith("red/0\\n\\x1b[31m0.png")


def test_features_are_found_again_and_no_cache_leaves_nothing_behind(saved, photos, cache, capsys, monkeypatch):
    ask(saved, photos / "red", no_cache=True, json=True)
    first = capsys.readouterr().out
    assert not list(cache.rglob("keys*"))
    ask(saved, photos / "red", json=True)
    assert list(cache.rglob("*")) and [json.loads(one)["label"] for one in first.splitlines()] == [
        json.loads(one)["label"] for one in capsys.readouterr().out.splitlines()
    ]
    monkeypatch.setattr(Extractor, "__call__", None)  # every feature is known
    ask(saved, photos / "red", json=True)


def test_the_next_batch_is_decoded_while_nobody_asks_and_no_more_is_in_memory(tmp_path, preprocessing, monkeypatch):
    folder, batch = write_photos(tmp_path / "many", {"a": 200}), batch_size(preprocessing.image_size)
    lock, ready = threading.Lock(), threading.Event()
    decoded, most, taken = [0], [0], 0
    original = named._read

    def counted(*arguments):
        with lock:
            decoded[0] += 1
            most[0] = max(most[0], decoded[0] - taken)
            if decoded[0] == 2 * batch:
                ready.set()
        return original(*arguments)

    monkeypatch.setattr(named, "_read", counted)
    for _ in named.pictures([str(folder)], preprocessing, io.StringIO()):
        taken += 1
        if taken == batch + 1:  # batch - 1 more are on their way
            assert ready.wait(60), "the network's time is not used"
    assert taken == 200 and most[0] <= batch + 1


@pytest.mark.parametrize(("source", "message"), [("gone.jpg", "no such file or folder"), ("empty", "holds no pic")])
def test_a_source_that_is_not_there_is_one_clear_line(tmp_path, preprocessing, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        list(named.pictures([source], preprocessing, io.StringIO()))


def test_a_name_that_is_not_utf8_is_still_a_line_of_json(saved, photos, capsys):
    (photos / "red" / "000.png").rename(photos / "red" / "odd\udcff.png")
    ask(saved, photos / "red", json=True)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.isprintable() and line.encode() for line in lines)
    assert "odd\udcff.png" in "".join(json.loads(line)["file"] for line in lines)


@pytest.mark.parametrize("name", [b"12:30.avi", b"caf\xe9.avi"])
def test_a_video_is_read_whatever_it_is_called(saved, tmp_path, monkeypatch, capsys, name):
    video = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 40))
    for level in (0, 120):
        video.write(np.full((40, 48, 3), level, np.uint8))
    video.release()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.avi").rename(tmp_path / os.fsdecode(name))
    ask(saved, os.fsdecode(name), json=True)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == [f"{os.fsdecode(name)}#{i}" for i in range(2)]
