"""report.html without a browser: what it says, how large it is, and that no name becomes markup."""

import base64
import dataclasses
import io
import json
import re
import tomllib
from pathlib import Path

import cv2
import numpy as np
import pages
import pytest
from PIL import Image

from vgg_flax.commands import report
from vgg_flax.errors import UserError
from vgg_flax.report import charts, closely, page, thumbnails
from vgg_flax.report.album import Album
from vgg_flax.settings import ReportSettings

ROOT = Path(__file__).parents[1]


@pytest.fixture
def written(tmp_path, small_spec, preprocessing):
    table = pages.predictions()
    photos = pages.photos_of(table)
    return pages.write(tmp_path / "run", table, photos, pages.random_model(small_spec, photos.classes, preprocessing))


def test_names_never_become_markup(written):
    found = pages.read(written)
    for tag, attributes in found.tags:
        assert tag in {"script", "img"} or "src" not in attributes
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        assert tag != "img" or attributes["src"].startswith("data:image/jpeg;base64,")
    assert sum(tag == "script" for tag, _ in found.tags) == 2
    data = json.loads(found.data)
    assert data["classes"][0] == pages.ATTACK and all("alert(" in photo[0] for photo in data["photos"])
    assert pages.ATTACK in found.text


def test_the_page_asks_for_nothing_and_runs_only_its_own_script(written):
    text = written.read_text(encoding="utf-8")
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:|//)", text)
    [policy] = [a["content"] for tag, a in pages.read(written).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_the_page_says_what_report_json_says(written):
    table = pages.predictions()
    test, text = pages.report_of(table)["test"], pages.read(written).text.replace(page.SPACE, " ")
    assert f"{test['accuracy']:.1%}".replace("%", " %") in text
    low, high = (f"{value:.1%}".replace("%", " %") for value in test["accuracy_95"])
    assert f"interval {low} to {high}" in text
    assert (
        "unlike the training photos" in text
        and "Suspected wrong labels: 1; groups of near-copies: 2" in text
        and "no such file" in text
        and "70.0 %" in text
    )
    for one in test["per_class"].values():
        assert f"{one['recall']:.1%}".replace("%", " %") in text


def test_each_mistake_has_its_photo_two_heat_maps_and_its_neighbours(written):
    table = pages.predictions()
    test = table.select("test")
    wrong = int((test.logits.argmax(1) != test.labels).sum())
    assert 0 < wrong <= closely.MISTAKES
    alts = [attributes["alt"] for tag, attributes in pages.read(written).tags if tag == "img"]
    heats = [alt for alt in alts if alt.startswith("What speaks for")]
    right = min(closely.LEAST_SURE, len(test) - wrong)
    assert len(heats) == 2 * wrong + right
    assert len(alts) == len(heats) + (wrong + right) * (1 + closely.NEAREST) + 2, "and two that the doctor doubts"


def test_without_photos_the_page_says_why_and_has_all_the_figures(tmp_path):
    path = pages.write(tmp_path / "run", pages.predictions(), missing=f"the folder {pages.ATTACK} is gone")
    found = pages.read(path)
    assert not [tag for tag, _ in found.tags if tag == "img"]
    assert "No pictures: the folder" in found.text and "expected" in found.text


def test_300_photos_stay_below_5_megabytes(tmp_path, small_spec, preprocessing):
    table = pages.predictions(300, splits=("test",))
    photos = pages.photos_of(table, 224)
    photos.images[:] = np.random.default_rng(0).integers(0, 256, photos.images.shape, np.uint8)  # JPEG's worst case
    bundle = pages.random_model(small_spec, photos.classes, preprocessing)
    small = pages.photos_of(table)
    path = pages.write(tmp_path / "a", table, photos)
    more = pages.write(tmp_path / "b", table, small, bundle)
    assert path.stat().st_size < 5e6 and more.stat().st_size < 5e6
    assert not (tmp_path / "a" / page.BESIDE).exists()


def test_many_photos_lie_on_sheets_beside_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "IN_PAGE", 100)
    table = pages.predictions(250, splits=("test",))
    photos = pages.photos_of(table)
    path = pages.write(tmp_path / "run", table, photos)
    data = json.loads(pages.read(path).data)
    assert data["sheets"] == [f"{page.BESIDE}/sheet_{i}.jpg" for i in (1, 2, 3)] and not data["thumbs"]
    row = {str(name): i for i, name in enumerate(photos.names)}
    for name, *_, place in data["photos"][::37]:
        sheet = cv2.imread(str(path.parent / data["sheets"][place // 100]), cv2.IMREAD_COLOR_RGB)
        top, left = place % 100 // 10 * thumbnails.SIDE, place % 10 * thumbnails.SIDE
        width, height = data["shapes"][place]
        assert (width, height) == ((96, 96) if row[name] % 4 < 2 or row[name] == 249 else (48, 96))
        found = sheet[top : top + height, left : left + width].astype(int)
        expected = thumbnails.thumbnail(photos.images[row[name]], (width, height)).astype(int)
        assert np.abs(found - expected).mean() < 12
    pages.write(tmp_path / "run", table)
    assert not (tmp_path / "run" / page.BESIDE).exists(), "sheets of an older page are gone"


def test_photos_are_found_by_content_whatever_their_order_or_name(tmp_path):
    table = pages.predictions(20)
    photos = pages.photos_of(table)
    order = np.random.default_rng(0).permutation(20)[:15]  # five are gone
    album = Album(photos.only(order), table)
    assert album.has(np.arange(20)).sum() == 15
    there = np.flatnonzero(album.has(np.arange(20)))
    np.testing.assert_array_equal(album.images(there), photos.images[there])
    assert album.thumbnail(int(np.setdiff1d(np.arange(20), there)[0])) == ""
    path = pages.write(tmp_path / "run", table, photos.only(order))
    places = [photo[-1] for photo in json.loads(pages.read(path).data)["photos"]]
    assert -1 in places and sorted(set(places) - {-1}) == [*range(len(places) - places.count(-1))]


@pytest.mark.parametrize(("turn", "shape"), [(1, (48, 96)), (6, (96, 48)), (3, (48, 96)), (8, (96, 48))])
def test_a_thumbnail_has_the_proportions_of_its_photo(turn, shape):
    table = pages.predictions(3)
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = turn
    Image.new("RGB", (60, 30)).save(file, "JPEG", exif=exif)
    photos = dataclasses.replace(pages.photos_of(table), read=lambda name: file.getvalue())
    album = Album(photos, table)
    assert album.small(1).shape == (*shape, 3)
    assert album.original(1).shape[0] * shape[1] == album.original(1).shape[1] * shape[0]
    assert Album(dataclasses.replace(photos, read=None), table).small(1).shape == (96, 96, 3), "there is no file"
    for region, proportions in (("center", 1), ("0,0,1,0.5", 2 * shape[1] / shape[0])):
        part = Album(dataclasses.replace(photos, region=region), table)
        for picture in (part.small(1), part.original(1)):
            assert picture.shape[1] / picture.shape[0] == proportions, "of what the model sees"


def test_a_picture_lies_warm_where_the_heat_is():
    heat = np.zeros((8, 8), np.float32)
    heat[:4] = 1
    heat[4:] = -1
    drawn = thumbnails.overlay(np.full((40, 60, 3), 128, np.uint8), heat, 1.0)
    assert drawn.shape == (40, 60, 3) and drawn[5, 30, 0] > 200 and drawn[35, 30].max() < 120
    assert base64.b64decode(thumbnails.data_uri(drawn).partition(",")[2])[:2] == b"\xff\xd8"


def test_many_classes_are_a_list_of_pairs():
    matrix = np.eye(30, dtype=int) * 5
    matrix[3, 4], matrix[7, 1] = 2, 9
    found = charts.confusion([str(i) for i in range(30)], matrix)
    assert not found["rows"] and [(one["truth"], one["predicted"]) for one in found["pairs"]] == [(7, 1), (3, 4)]
    assert found["pairs"][0]["share"] == 9 / 14 and found["more"] == 0
    assert len(charts.confusion(["a", "b"], np.eye(2, dtype=int))["rows"]) == 2


def test_curves_by_hand():
    loss, accuracy = charts.curves(pages.LOG, 2)
    assert loss["train"] == "0.00,0.00 50.00,50.00 100.00,75.00" and loss["val"].split()[2] == "100.00,37.50"
    assert (loss["x"], loss["y"], loss["kept_train"], loss["kept_val"]) == (50, 50, 2.0, 2.0)
    assert [text for _, text in loss["ticks"]] == ["0", "1", "2", "3", "4"]
    assert accuracy["train"] == "0.00,100.00 50.00,50.00 100.00,0.00" and accuracy["val"].startswith("0.00,80.00 ")
    assert [text for _, text in accuracy["ticks"]] == ["50", "75", "100"]
    assert (loss["first"], loss["kept"], loss["last"]) == (1, 2, 3)


def test_curves_of_one_row_of_many_and_of_numbers_that_are_none():
    assert charts.curves([], 0) == charts.curves(pages.LOG, 0) == charts.curves(pages.LOG, 4) == []
    [loss, _] = charts.curves(pages.LOG[:1], 1)
    assert loss["val"] == "50.00,25.00"
    many = [row | {"epoch": i + 1} for i, row in enumerate(pages.LOG * 200)]
    many[7] = many[7] | {"train_loss": float("nan"), "val_loss": float("inf")}
    loss, accuracy = charts.curves(many, 600)
    assert len(accuracy["val"].split()) == charts.POINTS and "nan" not in loss["train"] + loss["val"]
    assert loss["val"].startswith("0.00,") and loss["val"].split()[-1].startswith("100.00,")
    [small, _] = charts.curves([pages.LOG[0] | {"train_loss": 0.0, "val_loss": 0.0}], 1)
    assert np.isfinite(small["y"]) and small["ticks"][0] == (100.0, "0")


def test_learning_is_on_the_page_of_a_run_only(written, tmp_path):
    found = pages.read(written)
    assert "Epoch 2 was kept, where the circle is: 2.0000 and 2.0000." in " ".join(found.text.split())
    assert {"href": "metrics.csv"} in [attributes for tag, attributes in found.tags if tag == "a"]
    table = pages.predictions()
    path = page.write(tmp_path, pages.report_of(table), {}, table, pages.JUDGE, None, None)
    assert "How it learned" not in pages.read(path).text


@pytest.mark.parametrize(
    ("missing", "message"), [("report.json", "is missing"), ("predictions.npz", "no predictions"), (None, "lacks")]
)
def test_a_folder_without_a_finished_run_is_one_line(tmp_path, missing, message):
    table = pages.predictions()
    table.save(tmp_path / "predictions.npz")
    (tmp_path / "report.json").write_text(json.dumps({"test": {"accuracy": 1}}))
    if missing:
        (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=message):
        report.main(ReportSettings([str(tmp_path)]))


def test_the_wheel_carries_every_file_that_is_no_module():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]
    carried = {
        path
        for package, globs in data.items()
        for glob in globs
        for path in (ROOT / package.replace(".", "/")).glob(glob)
    }
    packages = ("vgg_flax", "weights_convert")
    found = [path for package in packages for path in (ROOT / package).rglob("*") if path.is_file()]
    assert {path for path in found if path.suffix != ".py" and "__pycache__" not in path.parts} <= carried
