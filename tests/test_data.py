"""Where pictures come from, what is left out, and who trains, validates and tests."""

import dataclasses

import cv2
import numpy as np
import pytest
from conftest import write_photos

from vgg_flax.data import open_dataset
from vgg_flax.data.photos import load_pictures, prefetch
from vgg_flax.data.split import assign_splits
from vgg_flax.errors import UserError
from vgg_flax.settings import TrainSettings

FRACTIONS = TrainSettings(val_split=0.1, test_split=0.2)


def split_of(dataset, pictures, config=FRACTIONS):
    kept = pictures.kept
    return assign_splits(dataset.labels[kept], dataset.own_splits[kept], pictures.contents, dataset.classes, config)


def test_classes_are_the_sorted_folders(photos):
    dataset = open_dataset(str(photos))
    assert dataset.classes == ("blue", "green", "red")
    assert np.bincount(dataset.labels).tolist() == [10, 10, 10]
    assert dataset.names[0] == "blue/000.png"
    assert set(dataset.own_splits) == {""}


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "validation", "testing")])
def test_split_folders_and_their_synonyms(tmp_path, names):
    for i, name in enumerate(names):
        write_photos(tmp_path / name, {"a": 3 + i, "b": 3 + i}, seed=i)
    dataset = open_dataset(str(tmp_path))
    counts = {split: int((dataset.own_splits == split).sum()) for split in ("train", "val", "test")}
    assert counts == {"train": 6, "val": 8, "test": 10}


def test_a_missing_test_split_is_drawn_from_the_training_pictures(tmp_path, cache, preprocessing):
    write_photos(tmp_path / "d" / "train", {"a": 20, "b": 20})
    write_photos(tmp_path / "d" / "val", {"a": 4, "b": 4}, seed=1)
    dataset = open_dataset(str(tmp_path / "d"))
    splits = split_of(dataset, load_pictures(dataset, preprocessing))
    assert [int((splits == name).sum()) for name in ("train", "val", "test")] == [32, 8, 8]


def make_empty_class(folder):
    (folder / "yellow").mkdir()


def make_single_class(folder):
    for name in ("blue", "green"):
        for file in (folder / name).iterdir():
            file.unlink()
        (folder / name).rmdir()


def make_mismatch(folder):
    inner = list(folder.iterdir())
    for split in ("train", "val"):
        (folder / split).mkdir()
    for path in inner:
        path.rename(folder / "train" / path.name)
    write_photos(folder / "val", {"blue": 2, "green": 2})


@pytest.mark.parametrize(("spoil", "message"), [
    (make_empty_class, r"class folder .*yellow holds no pictures"),
    (make_single_class, r"has one class, 'red', expected at least two"),
    (make_mismatch, r"2 classes in .*val but 3 in .*train: 'red' is missing from val. Expected the same"),
])  # fmt: skip
def test_folders_that_cannot_be_learned_from(photos, spoil, message):
    spoil(photos)
    with pytest.raises(UserError, match=message):
        open_dataset(str(photos))


def test_missing_folder_and_folder_of_text_files(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist, expected a folder"):
        open_dataset(str(tmp_path / "nowhere"))
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="has no class folders, expected at least two sub-folders"):
        open_dataset(str(tmp_path))


def test_fewer_than_two_photos_in_a_class(tmp_path, cache, preprocessing):
    write_photos(tmp_path / "d", {"a": 5, "lonely": 1})
    dataset = open_dataset(str(tmp_path / "d"))
    with pytest.raises(UserError, match=r"class 'lonely' has 1 different usable picture\(s\), expected at least 2"):
        split_of(dataset, load_pictures(dataset, preprocessing))


def test_bad_files_are_listed_with_the_reason_and_skipped(photos, cache, preprocessing):
    (photos / "red" / "empty.jpg").write_bytes(b"")
    (photos / "red" / "page.jpg").write_text("<html></html>")
    (photos / "red" / "folder.jpg").mkdir()
    (photos / "red" / "._ghost.jpg").write_bytes(b"Mac")
    (photos / "red" / "notes.txt").write_text("no picture, and not named like one")
    dataset = open_dataset(str(photos))
    pictures = load_pictures(dataset, preprocessing)
    reasons = dict(pictures.bad)
    assert reasons.keys() == {"red/empty.jpg", "red/page.jpg", "red/folder.jpg"}
    assert reasons["red/empty.jpg"] == "empty file" and "HTML" in reasons["red/page.jpg"]
    assert len(pictures.images) == len(pictures.kept) == 30


def test_labels_stay_with_their_pictures_when_some_are_skipped(photos, cache, preprocessing):
    (photos / "blue" / "005.png").write_bytes(b"")
    dataset = open_dataset(str(photos))
    pictures = load_pictures(dataset, preprocessing)
    for image, index in zip(pictures.images, pictures.kept, strict=True):
        expected = cv2.cvtColor(cv2.imread(str(photos / dataset.names[index])), cv2.COLOR_BGR2RGB)
        assert image.mean((0, 1)).argmax() == expected.mean((0, 1)).argmax()


def test_strict_stops_at_the_first_bad_file(photos, cache, preprocessing):
    (photos / "red" / "empty.jpg").write_bytes(b"")
    for _ in range(2):  # also when the cache knows already
        with pytest.raises(UserError, match=r"red/empty\.jpg: empty file. Mend or remove it"):
            load_pictures(open_dataset(str(photos)), preprocessing, strict=True)
        load_pictures(open_dataset(str(photos)), preprocessing)


def test_second_start_maps_what_the_first_one_decoded(photos, cache, preprocessing, monkeypatch):
    first = load_pictures(open_dataset(str(photos)), preprocessing)
    monkeypatch.setattr("vgg_flax.preprocess.decode", lambda data: pytest.fail("decoded again"))
    again = load_pictures(open_dataset(str(photos)), preprocessing)
    assert again.digest == first.digest
    np.testing.assert_array_equal(again.images, first.images)
    with pytest.raises(ValueError, match="read-only"):
        again.images[0] = 0


def test_digest_sees_changed_pixels_and_changed_labels(photos, cache, preprocessing):
    digests = [load_pictures(open_dataset(str(photos)), preprocessing).digest]
    picture = photos / "red" / "000.png"
    cv2.imwrite(str(picture), np.zeros((9, 9, 3), np.uint8))
    digests.append(load_pictures(open_dataset(str(photos)), preprocessing).digest)
    (photos / "red").rename(photos / "amber")
    digests.append(load_pictures(open_dataset(str(photos)), preprocessing).digest)
    assert len(set(digests)) == 3


def test_split_is_stratified_seeded_and_covers_everything():
    labels = np.repeat([0, 1], [200, 40])
    contents = np.array([f"{i:04}" for i in range(240)])
    own = np.full(240, "", "<U5")
    one, same, other = (
        assign_splits(labels, own, contents, ("a", "b"), dataclasses.replace(FRACTIONS, seed=seed))
        for seed in (1, 1, 2)
    )
    assert (one == same).all() and (one != other).any()
    for label, size in ((0, 200), (1, 40)):
        counts = [int((one[labels == label] == name).sum()) for name in ("train", "val", "test")]
        assert counts == [size * 7 // 10, size // 10, size // 5]


def test_copies_of_a_picture_share_a_split():
    labels = np.zeros(60, int)
    labels[30:] = 1
    contents = np.array([f"{i // 3:04}" for i in range(60)])  # every picture is there three times
    splits = assign_splits(labels, np.full(60, "", "<U5"), contents, ("a", "b"), FRACTIONS)
    for content in np.unique(contents):
        assert len(set(splits[contents == content])) == 1
    assert set(splits) == {"train", "val", "test"}


def test_two_pictures_are_enough_for_a_class():
    labels = np.array([0, 0, 1, 1, 1])
    contents = np.array(list("abcde"))
    splits = assign_splits(labels, np.full(5, "", "<U5"), contents, ("a", "b"), FRACTIONS)
    for label in (0, 1):
        assert "train" in splits[labels == label] and "test" in splits[labels == label]


def test_digits_are_pictures_like_any_other(cache, preprocessing):
    dataset = open_dataset("digits")
    pictures = load_pictures(dataset, preprocessing)
    assert pictures.images.shape == (1797, 32, 32, 3) and pictures.images.max() == 255
    assert (pictures.images[..., 0] == pictures.images[..., 2]).all()


def test_prefetch_keeps_the_order_and_passes_errors_on():
    assert list(prefetch(lambda i: i * i, 50)) == [i * i for i in range(50)]

    def fail_at_7(i):
        if i == 7:
            raise KeyError("seven")
        return i

    with pytest.raises(KeyError, match="seven"):
        list(prefetch(fail_at_7, 50))


def test_tensorflow_datasets_without_tensorflow(tmp_path, cache, preprocessing):
    import subprocess
    import sys

    script = tmp_path / "dots.py"
    script.write_text("""
import cv2, io, sys, numpy as np, tensorflow_datasets as tfds

class Dots(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")
    def _info(self):
        names = tfds.features.ClassLabel(names=["wide", "tall"])
        features = {"image": tfds.features.Image(shape=(None, None, 3)), "label": names}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))
    def _split_generators(self, manager):
        return {"train": self._examples(24), "test": self._examples(8)}
    def _generate_examples(self):
        pass
    def _examples(self, count):
        for i in range(count):
            shape = (12, 30, 3) if i % 2 else (30, 12, 3)
            picture = cv2.imencode(".png", np.full(shape, 20 * (i % 2) + 100, np.uint8))[1]
            yield i, {"image": io.BytesIO(picture.tobytes()), "label": "wide" if i % 2 else "tall"}

builder = Dots(data_dir=sys.argv[1], file_format="array_record")
builder.download_and_prepare()
print(builder.data_path)
from vgg_flax.data import open_dataset
from vgg_flax.data.loader import load_pictures
from vgg_flax.preprocess import Preprocessing
dataset = open_dataset(f"tfds:{builder.data_path}")
pictures = load_pictures(dataset, Preprocessing(32))
assert dataset.classes == ("tall", "wide"), dataset.classes
assert pictures.images.shape == (32, 32, 32, 3)
assert (pictures.images[:, 0, 0, 0] == 100 + 20 * dataset.labels).all()
assert (dataset.own_splits == "test").sum() == 8 and (dataset.own_splits == "train").sum() == 24
assert "tensorflow" not in sys.modules
""")
    answer = subprocess.run([sys.executable, str(script), str(tmp_path / "tfds")], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_real_photos_are_all_read_and_none_trains_and_tests(masks, cache, preprocessing):
    dataset = open_dataset(str(masks))
    pictures = load_pictures(dataset, preprocessing)
    assert pictures.bad == () and len(pictures.images) == len(dataset.names) > 1000
    splits = split_of(dataset, pictures)
    train, test = (set(pictures.contents[splits == name]) for name in ("train", "test"))
    assert train and test and not train & test
