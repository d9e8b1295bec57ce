"""Folders, archives and tables as people have them: understood, or refused in one line."""

import csv
import os
import stat
import time
import zipfile

import cv2
import numpy as np
import pytest

from vgg_flax.data import open_dataset
from vgg_flax.data.photos import load
from vgg_flax.data.splitnames import role
from vgg_flax.data.zipped import list_zip
from vgg_flax.errors import BadImage, UserError
from vgg_flax.settings import TrainSettings, from_flat


def picture(seed):
    return cv2.imencode(".png", np.random.default_rng(seed).integers(0, 255, (36, 40, 3), np.uint8))[1].tobytes()


def lay(top, *paths):
    """Files at these paths, pictures where they are named so; `a/*3` stands for three pictures in a/."""
    for path in paths:
        folder, star, count = path.rpartition("*")
        names = [f"{folder}{i}.png" for i in range(int(count))] if star else [path]
        for name in names:
            file = top / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(abs(hash(name)) % 2**32) if name.endswith(".png") else b"a text\n")
    return str(top)


def pack(folder, path):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return str(path)


def splits_of(dataset):
    found = {}
    for name, split in zip(dataset.names, dataset.own_splits, strict=True):
        found.setdefault(str(split), []).append(name)
    return {split: len(names) for split, names in found.items()}


def load_photos(source, **options):
    return load(from_flat(TrainSettings, {"data": str(source), "image_size": 32, **options}))[0]


UNDERSTOOD = {
    "training_set": (
        ["training_set/a/*3", "training_set/b/*3", "test_set/a/*2", "test_set/b/*2"],
        {"train": 6, "test": 4},
    ),
    "seg_train": (
        ["seg_train/seg_train/a/*3", "seg_train/seg_train/b/*3", "seg_test/seg_test/a/*2", "seg_test/seg_test/b/*2",
         "seg_pred/seg_pred/*4"],
        {"train": 6, "test": 4},
    ),
    "Train Images": (["Train Images/a/*3", "Train Images/b/*3", "Validation Images/a/*1", "Validation Images/b/*1"],
                     {"train": 6, "val": 2}),
    "wrapper": (["dataset/a/*3", "dataset/b/*3"], {"": 6}),
    "wrapper beside __MACOSX": (["dataset/a/*3", "dataset/b/*3", "__MACOSX/dataset/a/*3"], {"": 6}),
    "two wrappers around splits": (["x/y/train/a/*3", "x/y/train/b/*3", "x/y/test/a/*1", "x/y/test/b/*1"],
                                   {"train": 6, "test": 2}),
    "prefix": (["lungs_train/a/*3", "lungs_train/b/*3", "lungs_val/a/*1", "lungs_val/b/*1"], {"train": 6, "val": 2}),
    "TrainingData": (["TrainingData/a/*3", "TrainingData/b/*3"], {"train": 6}),
    "unlabelled test": (["train/a/*3", "train/b/*3", "test1/*5"], {"train": 6}),
    "unlabelled test in a folder": (["train/a/*3", "train/b/*3", "test/images/*5"], {"train": 6}),
    "unlabelled pred beside classes": (["a/*3", "b/*3", "pred/*5"], {"": 6}),
    "splits inside classes": (["a/train/*3", "b/train/*3", "a/test/*1", "b/test/*1"], {"train": 6, "test": 2}),
    "classes that sound like splits": (["test tube/*3", "train station/*3"], {"": 6}),
    "test without a class": (["train/a/p/*3", "train/b/p/*3", "test/a/p/*2"], {"train": 6, "test": 2}),
}  # fmt: skip


@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize(("paths", "expected"), UNDERSTOOD.values(), ids=UNDERSTOOD.keys())
def test_layouts_that_are_understood(tmp_path, paths, expected, zipped):
    source = lay(tmp_path / "d", *paths)
    dataset = open_dataset(pack(tmp_path / "d", tmp_path / "d.zip") if zipped else source)
    assert dataset.classes in (("a", "b"), ("test tube", "train station"))
    assert splits_of(dataset) == expected
    folder = [name.split("/") for name in dataset.names]
    assert all(dataset.classes[label] in parts for label, parts in zip(dataset.labels, folder, strict=True))
    assert all(dataset.read(i) == (tmp_path / "d" / name).read_bytes() for i, name in enumerate(dataset.names))
    plain = not any("train" in path.lower() or "dataset" in path or "pred" in path for path in paths)
    assert plain or dataset.notes or "station" in paths[1], "what was understood is said"


def test_what_was_understood_is_said_in_a_line(tmp_path):
    nested = open_dataset(lay(tmp_path / "1", *UNDERSTOOD["seg_train"][0]))
    assert nested.notes == (
        "seg_pred holds 4 pictures without class folders: left aside, as it has no labels",
        "your own splits: train from seg_train/seg_train, test from seg_test/seg_test",
    )
    wrapped = open_dataset(lay(tmp_path / "2", *UNDERSTOOD["wrapper"][0]))
    assert wrapped.notes == (f"the folders of {tmp_path / '2'} lie in dataset",)
    assert open_dataset(lay(tmp_path / "3", "a/*2", "b/*2")).notes == ()


REFUSED = {
    "test without train": (["test_set/a/*3", "test_set/b/*3"], "test_set looks like a split, but no folder"),
    "val beside classes": (["a/*3", "b/*3", "val/a/*1", "val/b/*1"], "val looks like a split, but no folder"),
    "train of loose photos": (["train/*3", "test/*3"], "train looks like a split, but holds photos, but no"),
    "train beside classes": (["cars/*3", "planes/*3", "train/*3"], "train looks like a split, but holds photos"),
    "val of loose photos": (["train/a/*2", "train/b/*2", "val/*3"], "val looks like a split, but holds photos"),
    "two of one kind": (["train/a/*2", "train/b/*2", "training/a/*2"], "train and training, which both mean train"),
    "folds": (["fold1/a/*2", "fold1/b/*2", "fold2/a/*2", "fold2/b/*2"], "fold1 looks like a split, but seems to mean"),
    "both at once": (["train_test/a/*2", "train_test/b/*2"], "looks like a split, but seems to mean test and train"),
    "split among classes": (["train/a/*2", "train/b/*2", "train/test/*2"], "train/test looks like a split inside"),
    "splits inside one class": (["a/train/*2", "a/test/*2", "b/*3"], "only some photos lie in folders of splits"),
    "a strange class in test": (["train/a/*2", "train/b/*2", "test/a/*2", "test/c/*2"], "'c' is missing from train"),
    "an empty class in train": (["train/a/*2", "train/b/notes.txt", "test/a/*2"], "class folder .*train/b holds no"),
    "photos in one folder": (["cat.0.png", "cat.1.png", "dog.0.png"], "3 pictures lie in it directly: .* --label"),
}  # fmt: skip


@pytest.mark.parametrize(("paths", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_looks_like_a_split_and_cannot_be_used_is_refused(tmp_path, paths, message):
    source = lay(tmp_path / "d", *paths)
    with pytest.raises(UserError, match=message) as refused:
        open_dataset(source)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("name", "expected"), [
    ("train", ("train", True)), ("Training-Set", ("train", True)), ("trainset", ("train", True)),
    ("TestImages", ("test", True)), ("val2017", ("val", True)), ("seg_pred", ("unlabelled", True)),
    ("test tube", ("test", False)), ("my_valid_data", ("val", True)), ("fold_3", ("fold", True)),
    ("trains", None), ("testament", None), ("value", None), ("images", None), ("Löwe", None), ("測試", None),
])  # fmt: skip
def test_names_of_splits(name, expected):
    assert role(name) == expected


def test_a_class_that_test_lacks_is_a_warning_and_the_others_are_measured(tmp_path, cache):
    lay(tmp_path / "d", "train/a/*9", "train/b/*9", "test/a/*4")
    photos = load_photos(tmp_path / "d")
    assert photos.warnings == ("test has no pictures of 'b': figures are of the other 1 only",)
    assert len(photos.rows("test")) == 4 and set(photos.labels[photos.rows("test")]) == {0}


def test_pictures_beside_the_class_folders_and_other_folders_are_not_forgotten(tmp_path):
    dataset = open_dataset(lay(tmp_path / "d", "train/a/*2", "train/b/*2", "train/loose.png", "extra/*3", "top.png"))
    assert sorted(one.name for one in dataset.left_out) == ["top.png", "train/loose.png"]
    assert dataset.warnings == ("extra is no split (3 pictures beside train): left aside",)


def test_files_without_a_known_suffix_are_known_by_their_first_bytes_or_listed(tmp_path, cache):
    lay(tmp_path / "d", "a/*3", "b/*3", "a/notes.txt", "b/Thumbs.db", "b/labels.xml", "README")
    for suffix, number in (
        (".jpg", 1),
        (".webp", 2),
        (".bmp", 3),
        (".gif", 4),
        (".tiff", 5),
        (".avif", 6),
        (".ppm", 7),
    ):
        image = np.random.default_rng(number).integers(0, 255, (36, 40, 3), np.uint8)
        (tmp_path / "d" / "a" / f"photo{number}").write_bytes(cv2.imencode(suffix, image)[1].tobytes())
        (tmp_path / "d" / "b" / f"p.{number}.JPG_large").write_bytes(cv2.imencode(suffix, 255 - image)[1].tobytes())
    os.mkfifo(tmp_path / "d" / "a" / "pipe")
    photos = load_photos(tmp_path / "d")
    assert len(photos) == 20
    assert dict(photos.bad).keys() == {"a/notes.txt", "a/pipe", "b/labels.xml"}
    assert {one.reason for one in photos.left_out} == {"no picture by its name or its first bytes"}
    assert len(load_photos(tmp_path / "d", strict=True)) == 20  # a text is no picture that can't be read
    assert photos.found["files"] == 23 and photos.found["not_usable"] == 3


def test_links_into_another_class_are_left_out_and_listed(tmp_path, cache):
    top = tmp_path / "d"
    lay(top, "a/*4", "b/*4", "b/deep/*2")
    lay(tmp_path / "elsewhere", "x/*3")
    (top / "a" / "link.png").symlink_to(top / "b" / "1.png")
    (top / "a" / "folder").symlink_to(top / "b" / "deep")
    (top / "a" / "outside").symlink_to(tmp_path / "elsewhere" / "x")
    (top / "a" / "same.png").symlink_to(top / "a" / "0.png")
    (top / "b" / "up").symlink_to(top)
    photos = load_photos(top)
    assert dict(photos.bad) == {
        "a/link.png": "a link into class 'b': b/1.png",
        "a/folder/0.png": "a link into class 'b': b/deep/0.png",
        "a/folder/1.png": "a link into class 'b': b/deep/1.png",
    }
    assert len(photos) == 4 + 6 + 3 + 1


def test_a_class_that_is_only_a_link_to_another_is_refused(tmp_path):
    lay(tmp_path / "d", "a/*4", "b/*4")
    (tmp_path / "d" / "kitten").symlink_to(tmp_path / "d" / "a")
    with pytest.raises(UserError, match=r"class 'kitten' has no picture of its own: all 4 files in it .* a link into"):
        open_dataset(str(tmp_path / "d"))


def test_links_in_circles_end(tmp_path):
    lay(tmp_path / "d", "a/*2", "b/*2")
    (tmp_path / "d" / "b" / "self.png").symlink_to("self.png")
    (tmp_path / "d" / "b" / "self").symlink_to("self")
    for i in range(12):
        lay(tmp_path / "d", f"a/c{i}/x.png")
        for j in range(12):
            (tmp_path / "d" / "a" / f"c{i}" / f"to{j}").symlink_to(tmp_path / "d" / "a" / f"c{j}")
    start = time.process_time()
    assert open_dataset(str(tmp_path / "d")).classes == ("a", "b")
    assert time.process_time() - start < 10


def test_a_flat_folder_with_the_class_in_the_names(tmp_path, cache):
    paths = [f"{name}.{i}.png" for name in ("cat", "dog") for i in range(12)]
    lay(tmp_path / "d", *paths, "odd.png", "notes.txt")
    photos = load_photos(tmp_path / "d", label=r"(cat|dog)\.")
    assert photos.classes == ("cat", "dog") and len(photos) == 24
    assert all(photos.classes[label] == name[:3] for label, name in zip(photos.labels, photos.names, strict=True))
    assert dict(photos.bad)["odd.png"] == "--label finds no class in its name"
    zipped = open_dataset(pack(tmp_path / "d", tmp_path / "d.zip"), label=r"(cat|dog)\.")
    assert zipped.names == open_dataset(str(tmp_path / "d"), label=r"(cat|dog)\.").names


def test_train_and_unlabelled_test_with_the_class_in_the_names(tmp_path):
    names = [f"train/{name}.{i}.png" for name in ("cat", "dog") for i in range(3)]
    dataset = open_dataset(lay(tmp_path / "d", *names, "test1/1.png", "test1/2.png"), label=r"([a-z]+)\.\d")
    assert splits_of(dataset) == {"train": 6} and dataset.classes == ("cat", "dog")
    assert [one.name for one in dataset.left_out] == ["test1/1.png", "test1/2.png"]


@pytest.mark.parametrize(("label", "message"), [
    ("(", "is no regular expression"), ("cat", "has no group"),
    ("(cat)", "finds one class, 'cat', in the 2 picture names"),
    ("(horse)", "finds no class in the 2 picture names of .* such as 'cat.0.png'"),
])  # fmt: skip
def test_labels_that_make_no_sense_are_one_clear_line(tmp_path, label, message):
    source = lay(tmp_path / "d", "cat.0.png", "cat.1.png")
    with pytest.raises(UserError, match=message):
        open_dataset(source, label=label)
    with pytest.raises(UserError, match="--data digits has labels of its own"):
        open_dataset("digits", label=label)


def write_table(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_csv_names_paths_labels_splits_and_groups(tmp_path, cache):
    lay(tmp_path / "d", "in/*12", "out/*12")
    rows = ["path,label,split,group"]
    rows += [f"in/{i}.png,warm,{'test' if i < 3 else 'train'},p{i // 2}" for i in range(12)]
    rows += [f"out/{i}.png, cold ,{'Testing' if i < 3 else ''}," for i in range(12)]
    photos = load_photos(write_table(tmp_path / "d" / "photos.csv", "\ufeff" + "\r\n".join(rows)))
    assert photos.classes == ("cold", "warm") and len(photos.rows("test")) == 6
    groups = dict(zip(photos.names, photos.groups, strict=True))
    assert groups["in/4.png"] == groups["in/5.png"] != groups["in/6.png"]
    assert [one.name for one in photos.left_out] == ["in/3.png"]  # of p1, which tests
    assert "val" in photos.splits


def test_a_csv_with_only_path_and_label_and_rows_that_cannot_be_used(tmp_path, cache):
    lay(tmp_path / "d", "x/*8")
    rows = ["path;label"] + [f"x/{i}.png;{'ab'[i % 2]}" for i in range(8)]
    rows += ["x/0.png;a", "x/1.png;", "nowhere.png;b", ";a"]
    photos = load_photos(write_table(tmp_path / "d" / "photos.csv", "\n".join(rows)))
    assert len(photos) == 8
    assert [(one.name, one.reason) for one in photos.left_out] == [
        ("line 13", "no path"), ("nowhere.png", "no such file"), ("x/0.png", "the table names it twice"),
        ("x/1.png", "no label"),
    ]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), [
    ("", "has the columns none, expected path,label"),
    ("file,label\na,b\n", "has the columns file, label, expected path,label .* path missing"),
    ("path,label\na,b\n", "has one label, 'b', expected at least two"),
    ("path,label,split\na,b,train\nc,d,maybe\n", "line 3: split is 'maybe', expected train, val, test or nothing"),
    ("path,label,split\na,b,test\nc,d,test\n", "has no photo for training"),
])  # fmt: skip
def test_tables_that_make_no_sense_are_one_clear_line(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        open_dataset(write_table(tmp_path / "t.csv", text))


def test_a_table_that_is_no_text_or_not_there(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(UserError, match="expected a text file in UTF-8"):
        open_dataset(str(tmp_path / "t.csv"))
    with pytest.raises(UserError, match=r"nowhere\.csv does not exist"):
        open_dataset(str(tmp_path / "nowhere.csv"))
    with pytest.raises(UserError, match=r"nowhere\.zip does not exist"):
        open_dataset(str(tmp_path / "nowhere.zip"))


def test_a_zip_is_read_in_place_and_gives_what_its_folder_gives(tmp_path, cache):
    lay(tmp_path / "d", "photos/a/*9", "photos/b/*9", "photos/a/notes.txt", "__MACOSX/photos/a/._0.png")
    folder = load_photos(tmp_path / "d")
    before = set(tmp_path.rglob("*"))
    zipped = load_photos(pack(tmp_path / "d", tmp_path / "d.zip"))
    assert zipped.decoded == 0 and zipped.digest == folder.digest and zipped.names == folder.names
    assert zipped.left_out == folder.left_out
    assert {path for path in set(tmp_path.rglob("*")) - before if "cache" not in path.parts} == {tmp_path / "d.zip"}


def test_an_archive_with_backslashes_or_dots_in_its_paths(tmp_path):
    for before, slash in (("./", "/"), ("", "\\")):
        with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
            for i in range(4):
                archive.writestr(f"{before}photos{slash}{'ab'[i % 2]}{slash}{i}.png", picture(i))
        dataset = open_dataset(str(tmp_path / "d.zip"))
        assert dataset.names == ("photos/a/0.png", "photos/a/2.png", "photos/b/1.png", "photos/b/3.png")
        assert dataset.read(2) == picture(1)


def test_names_in_utf_8_that_a_zip_does_not_declare(tmp_path):
    lay(tmp_path / "d", "köpek/*2", "猫/*2")
    pack(tmp_path / "d", tmp_path / "d.zip")
    data = bytearray((tmp_path / "d.zip").read_bytes())
    for signature, offset in ((b"PK\3\4", 7), (b"PK\1\2", 9)):  # the byte with the flag that declares UTF-8
        start = -1
        while (start := data.find(signature, start + 1)) >= 0:
            data[start + offset] &= 0xF7
    (tmp_path / "d.zip").write_bytes(data)
    dataset = open_dataset(str(tmp_path / "d.zip"))
    assert dataset.classes == ("köpek", "猫")
    assert dataset.read(3) == (tmp_path / "d" / "猫" / "1.png").read_bytes()


def hostile(archive):
    archive.writestr("../outside.png", picture(0))
    archive.writestr("a/../../b.png", picture(0))
    archive.writestr("/etc/abs.png", picture(0))
    archive.writestr("C:/x.png", picture(0))
    archive.writestr("a\\..\\..\\back.png", picture(0))
    link = zipfile.ZipInfo("a/link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(link, "/etc/passwd")
    archive.writestr("a/bomb.png", bytes(5_000_000), zipfile.ZIP_DEFLATED)


def test_hostile_members_of_a_zip_are_left_out_with_the_reason(tmp_path, cache):
    lay(tmp_path / "d", "a/*4", "b/*4")
    pack(tmp_path / "d", tmp_path / "d.zip")
    with zipfile.ZipFile(tmp_path / "d.zip", "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        hostile(archive)
        archive.writestr("a/0.png", picture(99))
    photos = load_photos(tmp_path / "d.zip")
    assert len(photos) == 8
    reasons = dict(photos.bad)
    outside = {"a/../../back.png", "../outside.png", "a/../../b.png", "/etc/abs.png", "C:/x.png"}
    assert {name for name, reason in reasons.items() if reason == "its path leads out of the archive"} == outside
    assert "a link" in reasons["a/link.png"] and "more than 200 times its size" in reasons["a/bomb.png"]
    assert reasons["a/0.png"] == "the archive holds this name twice"


def test_a_size_that_lies_a_broken_member_and_a_password(tmp_path, monkeypatch):
    lay(tmp_path / "d", "a/*2", "b/*2")
    pack(tmp_path / "d", tmp_path / "d.zip")
    data = bytearray((tmp_path / "d.zip").read_bytes())
    first = data.index(b"\x89PNG")
    data[first + 40] ^= 255
    (tmp_path / "broken.zip").write_bytes(data)
    broken = open_dataset(str(tmp_path / "broken.zip"))
    with pytest.raises(BadImage, match="damaged in the archive"):
        broken.read(0)
    assert broken.read(1) == (tmp_path / "d" / "a" / "1.png").read_bytes()
    monkeypatch.setattr("vgg_flax.data.zipped.MOST_BYTES", 1000)
    assert all("expected at most 1000" in reason for reason in list_zip(tmp_path / "d.zip").left_out.values())
    monkeypatch.setattr("vgg_flax.data.zipped.MOST_FILES", 3)
    with pytest.raises(UserError, match="holds 6 files, expected at most 3"):
        open_dataset(str(tmp_path / "d.zip"))
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match=r"cut\.zip is no whole \.zip file"):
        open_dataset(str(tmp_path / "cut.zip"))


def test_split_csv_reads_back_as_a_table(tmp_path, cache):
    lay(tmp_path / "d", "a/*12", "b/*12")
    photos = load_photos(tmp_path / "d")
    with (tmp_path / "d" / "again.csv").open("w", newline="") as file:
        classes = [photos.classes[label] for label in photos.labels]
        csv.writer(file).writerows(
            [
                ("path", "label", "split"),
                *zip(photos.names, classes, photos.splits, strict=True),
                ("a/x.png", "a", "left_out"),
            ]
        )
    again = load_photos(tmp_path / "d" / "again.csv")
    assert again.splits.tolist() == photos.splits.tolist() and again.names == photos.names
    assert again.left_out[0].reason == "left out by the table itself"
