"""The pictures and tables that people look at: any number of classes, names of any script and length, no warnings."""

import dataclasses
import os

import cv2
import numpy as np
import pytest
from conftest import make_photos

from vgg_flax import console, report
from vgg_flax.network import augment
from vgg_flax.report import confusion, fonts, pictures
from vgg_flax.settings import TrainSettings, from_flat

SCRIPTS = ("cat", "кошка", "Ναυτίλος", "猫", "고양이", "しつけ", "قطة", "แมว", "$5", "a\nb", "\U0001f9ff")


def confused(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.diag(rng.integers(5, 20, n)) + (rng.random((n, n)) < 0.1) * rng.integers(0, 4, (n, n))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("n", [2, 10, 41, 200])
def test_a_confusion_picture_for_any_number_of_classes(tmp_path, n, normalize):
    names = [f"a rather long name of a class that ends as the others do, {i}, in the north" for i in range(n)]
    confusion.draw_confusion(confused(n), names, tmp_path / "matrix.png", normalize=normalize)
    height, width, _ = cv2.imread(str(tmp_path / "matrix.png")).shape
    assert 400 < height < 2800 and 400 < width < 2800


def test_a_matrix_is_centred(tmp_path):
    confusion.draw_confusion(confused(3), ["a", "b", "c"], tmp_path / "matrix.png", normalize=False)
    ink = cv2.imread(str(tmp_path / "matrix.png"), cv2.IMREAD_GRAYSCALE) < 250
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    margins = rows[0], columns[0], ink.shape[0] - 1 - rows[-1], ink.shape[1] - 1 - columns[-1]
    assert max(margins) - min(margins) < 15


def test_numbers_can_be_read_on_every_shade():
    for share in np.linspace(0, 1, 101):
        shade = confusion.SHADES(share)
        assert min(confusion.contrast(confusion.number_colour(share, wrong), shade) for wrong in (False, True)) > 3.8
    assert confusion.number_colour(0.05, True) == confusion.BAD
    assert confusion.contrast("black", "white") == pytest.approx(21)


def test_no_class_confused_with_another_is_drawn_too(tmp_path):
    confusion.draw_confusion(np.eye(50) * 3, [f"{i}" for i in range(50)], tmp_path / "matrix.png", normalize=True)
    assert (tmp_path / "matrix.png").exists()


def test_classes_come_in_the_order_in_which_people_count():
    names = ["class 10", "class 2", "Class 1", "b", "1", "a2b10", "a2b9"]
    assert sorted(names, key=confusion.natural) == ["1", "a2b9", "a2b10", "b", "Class 1", "class 2", "class 10"]


def test_names_in_any_script_are_drawn_or_listed(tmp_path):
    shown, lines = fonts.drawable(SCRIPTS)
    assert shown[:3] == list(SCRIPTS[:3]) and shown[8] == "$5" and shown[9] == "a?b"
    listed = {name for name, one in zip(SCRIPTS, shown, strict=True) if one.startswith("no. ")}
    assert lines == [f"no. {SCRIPTS.index(name) + 1} is {name!r}" for name in SCRIPTS if name in listed]
    confusion.draw_confusion(confused(len(SCRIPTS)), shown, tmp_path / "matrix.png", normalize=False)


@pytest.mark.parametrize("count", [0, 1, 5, 7, 24])
def test_a_sheet_of_mistakes_uses_its_width(tmp_path, count):
    photo = np.zeros((60, 90, 3), np.uint8)
    wrong = [(photo, f"cat/IMG_{i:04}_of_the_holidays_in_the_north.jpg", "cat", "dog", 0.9) for i in range(count)]
    pictures.draw_mistakes(wrong, count + (count == 24), 100, tmp_path / "sheet.png")
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    if count:
        black = np.flatnonzero((sheet < 5).all(2).any(0))
        assert black[-1] > 0.9 * sheet.shape[1]


def test_names_that_begin_and_end_alike_are_kept_apart():
    names = [f"Canis lupus familiaris variety {i} from the north of the country" for i in range(20)]
    short = console.kept_apart([*names, "cat", "猫" * 30], 24)
    assert len(set(short)) == len(short) and max(map(console.cell_len, short)) <= 24
    assert short[-2] == "cat" and "7" in short[7]


def test_a_mistake_shows_the_photo_as_people_know_it():
    photos = make_photos(4)
    assert report.original(photos, 2).shape == (32, 32, 3)  # there is no file
    files = {photos.names[2]: cv2.imencode(".png", np.zeros((600, 1200, 3), np.uint8))[1].tobytes(), "3.png": b"x"}
    photos = dataclasses.replace(photos, read=files.__getitem__)
    assert report.original(photos, 2).shape == (240, 480, 3)
    assert report.original(photos, 3).shape == (32, 32, 3)  # damaged since


def test_views_show_what_training_sees(tmp_path, small_spec):
    photos, settings = make_photos(30), from_flat(TrainSettings, {"data": "photos", "seed": 3})
    rows = report._one_of_each_class(photos)
    assert set(photos.labels[rows]) == {0, 1, 2} and set(photos.splits[rows]) == {"train"}
    views = report.random_views(photos, rows, settings)
    keys = augment.view_keys(3, 2, photos.contents[rows])
    expected = np.asarray(augment.augment(photos.images[rows], keys, settings.augmentation))
    np.testing.assert_array_equal(views[1][2], np.rint(expected[1]))
    np.testing.assert_array_equal(views[1][0], photos.images[rows[1]])
    pictures.draw_views(views, [str(row) for row in rows], tmp_path / "views.png")


def test_long_class_tables_show_the_worst_ten(capsys, tmp_path):
    names = [f"class {i}" for i in range(50)]
    scores = {"precision": 1.0, "recall": 1.0, "support": 3}
    per_class = {name: scores | {"f1": i / 50} for i, name in enumerate(names)}
    test = {"per_class": per_class, "accuracy_95": (0.5, 0.7), "accuracy": 0.6, "count": 150, "majority_baseline": 0.02}
    test["judged"] = {"coverage": 0.9, "precision": 0.95, "unsure": 10, "unlike": 5}
    console.show_results(test, tmp_path)
    labels = np.repeat(np.arange(50), np.arange(50) + 1)
    console.show_data(names, labels, np.full(len(labels), "train"), ())
    for text, where in zip(capsys.readouterr(), ("report.json", "split.csv"), strict=True):
        rows = [line.split()[1] for line in text.splitlines() if line.startswith("  class ") and "train" not in line]
        assert rows == [str(i) for i in range(10)]
        assert f"{where} has all 50" in text


def test_a_class_of_several_lines_is_a_row_of_a_table(capsys, tmp_path):
    names = ["cat\ndog", "\x1b[31mred", "猫\u3000犬"]
    scores = {"precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1}
    test = {"per_class": dict.fromkeys(names, scores), "accuracy_95": (0.5, 0.7), "accuracy": 0.6, "count": 3}
    test |= {"majority_baseline": 0.3, "judged": {"coverage": 0.9, "precision": 0.95, "unsure": 1, "unlike": 0}}
    console.show_results(test, tmp_path)
    console.show_data(names, np.arange(3), np.full(3, "train"), [("a\nb.jpg", "damaged")])
    console.say("a\rb")
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "  cat\\ndog  " in text and "  \\x1b[31mred  " in text and "猫\u3000犬" in text and "\x1b" not in text
    assert "a\\rb" in err


def test_an_epoch_is_a_row_of_a_table_that_fits_80_columns(capsys):
    row = dict.fromkeys(("train_loss", "val_loss"), 12345.678) | dict.fromkeys(("train_accuracy", "val_accuracy"), 1.0)
    row |= {"epoch": 9999, "lr": 1e-5, "images_per_second": 123456.0}
    console.show_epoch(row, 9999, best=True, first=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and max(map(len, lines)) <= 80 and "\x1b" not in "".join(lines)


def test_libraries_are_silent_while_we_still_speak(capfd):
    with console.without_noise():
        os.write(2, b"libpng warning: iCCP: known incorrect sRGB profile\n")
        console.say("said")
    os.write(2, b"afterwards\n")
    assert "libpng" not in capfd.readouterr().err
