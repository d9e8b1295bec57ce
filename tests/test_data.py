"""Where pictures come from, what is left out, and who trains, validates and tests."""

import dataclasses
import sys

import cv2
import numpy as np
import pytest
from conftest import write_photos

from vgg_flax.data import decode, open_dataset
from vgg_flax.data.photos import load
from vgg_flax.data.prefetch import prefetch
from vgg_flax.data.split import assign_folds, assign_splits, place
from vgg_flax.errors import UserError
from vgg_flax.settings import SplitSettings, TrainSettings, from_flat

FRACTIONS = SplitSettings(val_split=0.1, test_split=0.2)
NO_SPLITS = np.full(240, "", "<U5")


def load_photos(folder, **options):
    return load(from_flat(TrainSettings, {"data": str(folder), "image_size": 32, **options}))[0]


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


def test_a_missing_test_split_is_drawn_from_the_training_pictures(tmp_path, cache):
    write_photos(tmp_path / "d" / "train", {"a": 40, "b": 40})
    write_photos(tmp_path / "d" / "val", {"a": 4, "b": 4}, seed=1)
    photos = load_photos(tmp_path / "d")
    assert photos.own_val and len(photos.rows("val")) == 8
    assert 6 <= len(photos.rows("test")) <= 28 and len(photos.rows("train", "test")) == 80
    assert all(name.startswith("val/") for name in np.take(photos.names, photos.rows("val")))


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
    write_photos(folder / "val", {"blue": 2, "green": 2, "pink": 2})


@pytest.mark.parametrize(("spoil", "message"), [
    (make_empty_class, r"class folder .*yellow holds no pictures"),
    (make_single_class, r"has one class, 'red', expected at least two"),
    (make_mismatch, r"3 classes in .*val but 3 in .*train: 'pink' is missing from train. Expected no class"),
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


def test_fewer_than_two_photos_in_a_class(tmp_path, cache):
    write_photos(tmp_path / "d", {"a": 5, "lonely": 1})
    with pytest.raises(UserError, match=r"class 'lonely' has 1 different usable picture\(s\), expected at least 2"):
        load_photos(tmp_path / "d")


def test_bad_files_are_listed_with_the_reason_and_skipped(photos, cache):
    (photos / "red" / "empty.jpg").write_bytes(b"")
    (photos / "red" / "page.jpg").write_text("<html></html>")
    (photos / "red" / "folder.jpg").mkdir()
    (photos / "red" / "._ghost.jpg").write_bytes(b"Mac")
    (photos / "red" / "notes.txt").write_text("no picture, and not named like one")
    found = load_photos(photos)
    reasons = dict(found.bad)
    assert reasons.keys() == {"red/empty.jpg", "red/page.jpg", "red/folder.jpg", "red/notes.txt"}
    assert reasons["red/notes.txt"] == "no picture by its name or its first bytes"
    assert reasons["red/empty.jpg"] == "empty file" and "HTML" in reasons["red/page.jpg"]
    assert len(found.images) == len(found) == 30 and found.decoded == 30


def test_a_class_that_cannot_be_read_gives_the_reason_and_the_command_that_helps(photos, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for i in range(4):
        (photos / "iphone").mkdir(exist_ok=True)
        (photos / "iphone" / f"{i}.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes([i]))
    with pytest.raises(UserError) as failed:
        load_photos(photos)
    assert "class 'iphone': none of its 4 pictures can be used, such as iphone/0.heic" in str(failed.value)
    assert "pip install 'vgg_flax[heic]'" in str(failed.value) and "\n" not in str(failed.value)


def test_a_class_of_heic_is_read_where_pillow_heif_is_installed(photos, cache):
    pillow_heif = pytest.importorskip("pillow_heif")
    from PIL import Image

    for file in (photos / "red").iterdir():
        pillow_heif.from_pillow(Image.open(file).convert("RGB")).save(file.with_suffix(".heic"), quality=95)
        file.unlink()
    found = load_photos(photos)
    assert not found.bad and len(found) == 30
    red = [i for i, name in enumerate(found.names) if name.endswith(".heic")]
    assert len(red) == 10 and found.images[red].mean((0, 1, 2)).argmax() == 2


def test_pictures_with_12_bit_values_are_scaled_by_that_depth_and_said_once(tmp_path, cache):
    for name, base in (("a", 900), ("b", 2500)):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(6):
            picture = np.random.default_rng(i + base).integers(base, base + 1500, (40, 48), np.uint16)
            cv2.imwrite(str(tmp_path / "d" / name / f"{i}.png"), picture)
    for decoded in (12, 0):  # also when the pixels come from the cache
        found = load_photos(tmp_path / "d")
        assert found.notes == ("12 16-bit pictures hold 12-bit values: scaled by that depth",)
        assert found.decoded == decoded
        means = [found.images[found.labels == label].mean() for label in (0, 1)]
        np.testing.assert_allclose(means, [1650 / 4095 * 255, 3250 / 4095 * 255], rtol=0.02)


def test_labels_stay_with_their_pictures_when_some_are_skipped(photos, cache):
    (photos / "blue" / "005.png").write_bytes(b"")
    found = load_photos(photos)
    for i, name in enumerate(found.names):
        expected = cv2.cvtColor(cv2.imread(str(photos / name)), cv2.COLOR_BGR2RGB)
        assert found.images[i].mean((0, 1)).argmax() == expected.mean((0, 1)).argmax()
        assert name.startswith(found.classes[found.labels[i]])


def test_strict_stops_at_the_first_bad_file(photos, cache):
    (photos / "red" / "empty.jpg").write_bytes(b"")
    for _ in range(2):  # also when the cache has the others already
        with pytest.raises(UserError, match=r"red/empty\.jpg: empty file. Fix or remove it"):
            load_photos(photos, strict=True)
        load_photos(photos)


def test_second_start_reads_what_the_first_one_decoded(photos, cache, monkeypatch):
    first = load_photos(photos)
    monkeypatch.setattr(decode, "decode", lambda data: pytest.fail("decoded again"))
    again = load_photos(photos)
    assert (first.decoded, again.decoded) == (30, 0)
    assert again.digest == first.digest
    np.testing.assert_array_equal(again.images[:], first.images[:])


def test_ten_photos_more_are_ten_decoded_and_no_old_one_changes_split(photos, cache):
    write_photos(photos, {"blue": 60, "green": 60, "red": 60})
    before = load_photos(photos)
    write_photos(photos, {"amber": 4, "blue2": 6}, seed=9)
    for i, path in enumerate(sorted((photos / "blue2").iterdir())):
        path.rename(photos / "blue" / f"0{i}a.png")
    (photos / "blue2").rmdir()
    after = load_photos(photos)
    assert after.decoded == 10
    places = dict(zip(after.names, after.splits, strict=True))
    assert [places[name] for name in before.names] == before.splits.tolist()


def test_renamed_and_relabelled_photos_are_not_decoded_again_and_keep_their_split(photos, cache):
    write_photos(photos, {"blue": 60, "green": 60, "red": 60})
    before = load_photos(photos)
    for i in range(5):
        (photos / "red" / f"00{i}.png").rename(photos / "green" / f"renamed {i}.png")
    after = load_photos(photos)
    assert after.decoded == 0 and after.digest != before.digest
    places = [dict(zip(some.contents, some.splits, strict=True)) for some in (before, after)]
    assert places[0] == places[1]


def test_digest_sees_changed_pixels_and_changed_labels(photos, cache):
    digests = [load_photos(photos).digest]
    cv2.imwrite(str(photos / "red" / "000.png"), np.zeros((9, 9, 3), np.uint8))
    digests.append(load_photos(photos).digest)
    (photos / "red").rename(photos / "amber")
    digests.append(load_photos(photos).digest)
    assert len(set(digests)) == 3


@pytest.mark.parametrize(("side", "size"), [(199, 160), (200, 224)])
def test_small_photos_get_a_small_network_input(tmp_path, cache, side, size):
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(3):
            picture = np.random.default_rng(i).integers(0, 255, (side, side + 150, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "d" / name / f"{i}.jpg"), picture + (name == "b"))
    assert load(TrainSettings(data=str(tmp_path / "d")))[1] == size
    assert load(TrainSettings(data=str(tmp_path / "d"), image_size=48))[1] == 48


def test_a_header_that_lies_or_is_none_has_no_short_side():
    assert decode.short_side(b"") is None
    assert decode.short_side(b"\x89PNG\r\n\x1a\n" + bytes(100)) is None
    assert decode.short_side(cv2.imencode(".png", np.zeros((7, 9, 3), np.uint8))[1].tobytes()) == 7


def test_splits_are_seeded_cover_everything_and_come_close_to_their_shares():
    labels = np.repeat([0, 1], [2000, 400])
    groups, own = np.array([f"{i:04}" for i in range(2400)]), np.full(2400, "", "<U5")
    one, same, other = (
        assign_splits(labels, groups, own, ("a", "b"), dataclasses.replace(FRACTIONS, seed=seed)) for seed in (1, 1, 2)
    )
    assert (one == same).all() and (one != other).any()
    shares = [(one == name).mean() for name in ("train", "val", "test")]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.03)  # three standard deviations


def test_a_place_is_the_published_hash():
    # sha256("0:abc") begins with these eight bytes.
    import hashlib

    expected = int(hashlib.sha256(b"0:abc").hexdigest()[:16], 16) / 2**64
    assert place(0, "abc") == expected and 0 <= expected < 1


def test_a_place_depends_on_the_group_alone():
    groups, labels = np.array([f"{i:04}" for i in range(240)]), np.arange(240) % 2
    splits = assign_splits(labels, groups, NO_SPLITS, ("a", "b"), FRACTIONS)
    some = np.random.default_rng(0).permutation(240)[:150]
    fewer = assign_splits(1 - labels[some], groups[some], NO_SPLITS[:150], ("a", "b"), FRACTIONS)
    assert (fewer == splits[some]).all()


def test_copies_of_a_picture_share_a_split_also_under_two_labels():
    labels = np.arange(60) % 2
    groups = np.array([f"{i // 3:04}" for i in range(60)])  # every picture is there three times
    splits = assign_splits(labels, groups, NO_SPLITS[:60], ("a", "b"), FRACTIONS)
    assert all(len(set(splits[groups == group])) == 1 for group in groups)
    assert set(splits) == {"train", "val", "test"}


def test_a_class_that_would_lack_a_split_gives_its_lowest():
    for seed in range(50):
        settings = dataclasses.replace(FRACTIONS, seed=seed)
        labels, groups = np.array([0, 0, 1, 1, 1]), np.array(list("abcde"))
        splits = assign_splits(labels, groups, NO_SPLITS[:5], ("a", "b"), settings)
        assert sorted(splits[:2]) == ["test", "train"] and sorted(splits[2:]) == ["test", "train", "val"]
        order = sorted("cde", key=lambda group: place(seed, group))
        assert [dict(zip(groups, splits, strict=True))[group] for group in order] == ["test", "val", "train"]


def test_folds_are_stratified_and_keep_groups_together():
    labels = np.repeat([0, 1, 2], [100, 20, 3])
    groups = np.array([f"{i // 2:04}" for i in range(123)])
    folds = assign_folds(labels, groups, 5, seed=0)
    assert all(len(set(folds[groups == group])) == 1 for group in groups)
    assert [len(np.unique(folds[labels == label])) for label in (0, 1, 2)] == [5, 5, 2]  # the last has two groups
    assert np.ptp(np.bincount(folds[labels == 0], minlength=5)) <= 2
    assert (folds == assign_folds(labels, groups, 5, seed=0)).all()
    assert (folds != assign_folds(labels, groups, 5, seed=1)).any()


def test_digits_are_pictures_like_any_other(cache):
    photos, size = load(TrainSettings())
    assert photos.images.shape == (1797, size, size, 3) and size == 64
    some = photos.images[:100]
    assert some.max() == 255 and (some[..., 0] == some[..., 2]).all()


def test_prefetch_keeps_the_order_and_passes_errors_on():
    assert list(prefetch(lambda i: i * i, 50)) == [i * i for i in range(50)]

    def fail_at_7(i):
        if i == 7:
            raise KeyError("seven")
        return i

    with pytest.raises(KeyError, match="seven"):
        list(prefetch(fail_at_7, 50))


def test_tensorflow_datasets_without_tensorflow(tmp_path, cache):
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
        return {"train": self._examples(range(24)), "test": self._examples(range(24, 32))}
    def _generate_examples(self):
        pass
    def _examples(self, numbers):
        for i in numbers:
            shape = (12, 30, 3) if i % 2 else (30, 12, 3)
            picture = np.full(shape, 20 * (i % 2) + 100, np.uint8)
            picture[9, 9] = i
            picture = cv2.imencode(".png", picture)[1]
            yield i, {"image": io.BytesIO(picture.tobytes()), "label": "wide" if i % 2 else "tall"}

builder = Dots(data_dir=sys.argv[1], file_format="array_record")
builder.download_and_prepare()
print(builder.data_path)
from vgg_flax.data import open_dataset
from vgg_flax.data.photos import load
from vgg_flax.settings import TrainSettings
dataset = open_dataset(f"tfds:{builder.data_path}")
photos, _ = load(TrainSettings(data=f"tfds:{builder.data_path}", image_size=32))
assert photos.classes == ("tall", "wide"), photos.classes
assert photos.images.shape == (32, 32, 32, 3)
assert (photos.images[:][:, 0, 0, 0] == 100 + 20 * dataset.labels).all()
assert (dataset.own_splits == "test").sum() == 8 and (dataset.own_splits == "train").sum() == 24
assert "tensorflow" not in sys.modules
""")
    answer = subprocess.run([sys.executable, str(script), str(tmp_path / "tfds")], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr


def test_real_photos_are_all_read_and_none_trains_and_tests(masks, cache):
    photos = load_photos(masks)
    assert photos.bad == () and len(photos) > 1000
    train, test = (set(photos.contents[photos.rows(name)]) for name in ("train", "test"))
    assert train and test and not train & test
