"""The same photo is never on both sides of a split: copies, near-copies, and groups that people name."""

import csv
import hashlib
import itertools
import time

import cv2
import numpy as np
import pytest
from conftest import write_photos

from vgg_flax.data import copies, open_dataset
from vgg_flax.data.copies import difference_hash, near_pairs
from vgg_flax.data.groups import find_groups
from vgg_flax.data.photos import load
from vgg_flax.errors import UserError
from vgg_flax.settings import TrainSettings, from_flat

NONE = np.empty((0, 2), np.int64)


def load_photos(folder, **options):
    return load(from_flat(TrainSettings, {"data": str(folder), "image_size": 32, **options}))[0]


def scene(seed, side=64):
    """A smooth picture of its own, as photos are."""
    rough = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), np.uint8)
    return cv2.resize(rough, (side, side), interpolation=cv2.INTER_CUBIC)


def write_scenes(folder, classes, start=0):
    number = itertools.count(start)
    for name, count in classes.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            cv2.imwrite(str(folder / name / f"{i:03}.png"), scene(next(number)))
    return folder


def bits(a, b):
    return int(np.bitwise_count(a ^ b).sum())


def test_a_difference_hash_by_hand():
    picture = np.zeros((16, 17, 3), np.uint8)
    picture[:, 1::2] = 200  # dark, light, dark, ...: brighter, not brighter, ...
    assert (difference_hash(picture) == 0b10101010).all()
    assert difference_hash(picture).shape == (copies.HASH_BYTES,)


def test_recompressed_scaled_and_darker_copies_are_near_and_other_pictures_far():
    picture = scene(0, 200)
    small = cv2.resize(picture, (120, 120), interpolation=cv2.INTER_AREA)
    worse = cv2.imdecode(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], cv2.IMREAD_COLOR)
    darker = (picture * 0.7).astype(np.uint8)
    for changed in (small, worse, darker):
        assert bits(difference_hash(picture), difference_hash(changed)) <= copies.NEAR
    assert bits(difference_hash(picture), difference_hash(scene(1, 200))) > 2 * copies.NEAR


def test_near_pairs_are_those_of_the_plain_definition(monkeypatch):
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 256, (300, 32), np.uint8)
    for i in range(0, 300, 10):  # pairs at every distance around the limit
        hashes[i + 1] = hashes[i]
        flipped = rng.choice(256, i // 10 + 10, replace=False)
        hashes[i + 1] ^= np.packbits(np.isin(np.arange(256), flipped))
    expected = [[i, j] for i, j in itertools.combinations(range(300), 2) if bits(hashes[i], hashes[j]) <= copies.NEAR]
    assert len(expected) == 15
    for block in (1, 1000, 10**6):
        monkeypatch.setattr(copies, "BLOCK", block)
        assert sorted(near_pairs(hashes).tolist()) == expected
    assert near_pairs(hashes[:0]).shape == near_pairs(hashes[:1]).shape == (0, 2)


def test_twenty_thousand_photos_are_compared_in_seconds_and_without_quadratic_memory():
    hashes = np.random.default_rng(0).integers(0, 256, (20_000, 32), np.uint8)
    hashes[19_999] = hashes[3]
    start = time.process_time()
    assert near_pairs(hashes).tolist() == [[3, 19_999]]
    assert time.process_time() - start < 30
    assert copies.BLOCK * 8 < 100e6  # bytes of the largest array


def test_groups_join_contents_near_copies_and_keys():
    contents = np.array(list("fedcbaf"))
    labels = np.zeros(7, int)
    keys = np.array(["", "p", "", "", "p", "", ""])
    found = find_groups(contents, labels, np.array([[1, 2]]), [keys])
    assert found.names.tolist() == list("fbbcbaf")  # e and d look alike, e and b are one patient: the least is b
    assert (found.copies, found.near, found.largest) == (1, 1, 2)


def test_two_labels_in_a_group_of_near_copies_stay_together_and_are_named():
    found = find_groups(np.array(list("abc")), np.array([0, 1, 1]), np.array([[0, 1]]))
    assert found.names.tolist() == list("aac") and found.mixed == ((0, 1),)


@pytest.mark.parametrize(("count", "chain", "ignored"), [
    (30, 10, False), (30, 11, True), (400, 20, False), (400, 21, True),
])  # fmt: skip
def test_near_copies_that_chain_are_ignored_for_their_class_only(count, chain, ignored):
    contents = np.array([f"{i:04}" for i in range(count + 4)])
    labels = np.array([0] * count + [1] * 4)
    pairs = np.array([[i, i + 1] for i in range(chain - 1)] + [[count, count + 1]])
    found = find_groups(contents, labels, pairs)
    assert found.chained == (((0, chain),) if ignored else ())
    assert len(set(found.names[:chain])) == (chain if ignored else 1)
    assert len(set(found.names[count:])) == 3


def test_near_copies_share_a_split_and_are_counted(tmp_path, cache):
    write_scenes(tmp_path / "d", {"a": 30, "b": 30})
    for i in range(12):
        picture = cv2.imread(str(tmp_path / "d" / "a" / f"{i:03}.png"))
        cv2.imwrite(str(tmp_path / "d" / "a" / f"copy{i}.jpg"), picture)
    photos = load_photos(tmp_path / "d")
    place = dict(zip(photos.names, photos.splits, strict=True))
    assert all(place[f"a/{i:03}.png"] == place[f"a/copy{i}.jpg"] for i in range(12))
    assert len({place[f"a/copy{i}.jpg"] for i in range(12)}) > 1
    assert photos.found["near_copy_groups"] == 12 and photos.found["largest_near_copy_group"] == 2
    assert photos.notes == ("groups of near-copies: 12, the largest of 2 photos; each shares one side",)
    again = load_photos(tmp_path / "d")
    assert again.decoded == 0 and again.groups.tolist() == photos.groups.tolist()  # hashes are kept


def test_a_burst_that_chains_is_said_in_words(tmp_path, cache):
    write_scenes(tmp_path / "d", {"a": 5, "b": 5})
    still = scene(99, 64).astype(int)
    for i in range(12):
        cv2.imwrite(str(tmp_path / "d" / "a" / f"burst{i}.png"), np.clip(still + i, 0, 255).astype(np.uint8))
    photos = load_photos(tmp_path / "d")
    assert any("near-copies are ignored in class 'a': a chain of 12 photos" in line for line in photos.warnings)
    assert photos.found["near_copies_ignored_in"] == ["a"]
    assert len(set(photos.groups)) == len(photos)


def test_tiny_pictures_are_not_compared(tmp_path, cache):
    for name in ("a", "b"):
        (tmp_path / "d" / name).mkdir(parents=True)
        for i in range(5):
            cv2.imwrite(str(tmp_path / "d" / name / f"{i}.png"), np.full((20, 20), 10 * i + (name == "b"), np.uint8))
    photos = load_photos(tmp_path / "d")  # all of one colour: their hashes are equal
    assert len(set(photos.groups)) == len(photos) and not photos.warnings


def test_the_same_bytes_under_two_labels_are_left_out_and_listed_with_the_others_name(photos, cache):
    (photos / "red" / "twin.png").write_bytes((photos / "blue" / "003.png").read_bytes())
    found = load_photos(photos)
    assert dict(found.bad) == {
        "blue/003.png": "the same bytes as 'red/twin.png', which has the label 'red'",
        "red/twin.png": "the same bytes as 'blue/003.png', which has the label 'blue'",
    }
    assert len(found) == 29 and found.found["same_bytes_under_two_labels"] == 2
    assert [one.label for one in found.left_out] == ["blue", "red"]
    assert found.warnings == ("2 files hold the same bytes under two labels: left out, see bad_files.csv",)
    assert len(load_photos(photos, strict=True)) == 29  # both can be read


def test_a_photo_in_two_class_folders_never_straddles_the_split(tmp_path, cache):
    write_scenes(tmp_path / "d", {"a": 30, "b": 30})
    for i in range(12):
        picture = cv2.imread(str(tmp_path / "d" / "a" / f"{i:03}.png"))
        cv2.imwrite(str(tmp_path / "d" / "b" / f"again{i}.jpg"), picture)
    photos = load_photos(tmp_path / "d")
    place = dict(zip(photos.names, photos.splits, strict=True))
    assert all(place[f"a/{i:03}.png"] == place[f"b/again{i}.jpg"] for i in range(12))
    [warning] = photos.warnings
    assert "12 pairs of near-copies with two labels" in warning and "'a/000.png' and 'b/again0.jpg'" in warning


def test_own_test_photos_that_are_also_in_train_leave_the_training(tmp_path, cache):
    for split, start in (("train", 0), ("val", 40), ("test", 60)):
        write_scenes(tmp_path / "d" / split, {"a": 8, "b": 8}, start)
    top = tmp_path / "d"
    (top / "train" / "a" / "same.png").write_bytes((top / "test" / "a" / "000.png").read_bytes())
    cv2.imwrite(str(top / "train" / "b" / "near.jpg"), cv2.imread(str(top / "test" / "b" / "001.png")))
    (top / "train" / "b" / "val.png").write_bytes((top / "val" / "b" / "002.png").read_bytes())
    (top / "val" / "a" / "both.png").write_bytes((top / "test" / "a" / "003.png").read_bytes())
    photos = load_photos(top)
    assert dict(photos.bad) == {
        "train/a/same.png": "the same bytes as 'test/a/000.png' of test",
        "train/b/near.jpg": "shares a group (near-copy or --group) with 'test/b/001.png' of test",
        "train/b/val.png": "the same bytes as 'val/b/002.png' of val",
        "val/a/both.png": "the same bytes as 'test/a/003.png' of test",
    }
    assert photos.found["left_out_for_overlap"] == {"train with test": 2, "train with val": 1, "val with test": 1}
    assert "2 photos of train also in test, or with a near-copy there: left out of train" in photos.warnings
    counts = {split: len(photos.rows(split)) for split in ("train", "val", "test")}
    assert counts == {"train": 16, "val": 16, "test": 16}
    groups = [set(photos.groups[photos.rows(split)]) for split in counts]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert photos.images.shape == (48, 32, 32, 3)


def test_own_test_photos_that_are_all_of_train_are_one_clear_line(tmp_path, cache):
    write_scenes(tmp_path / "d" / "train", {"a": 4, "b": 4})
    write_scenes(tmp_path / "d" / "test", {"a": 4})
    with pytest.raises(UserError, match="class 'a' has no training photo of its own: all of them also lie in val"):
        load_photos(tmp_path / "d")


def test_a_class_that_is_a_copy_of_another_is_one_clear_line(tmp_path, cache):
    write_scenes(tmp_path / "d", {"a": 4})
    write_scenes(tmp_path / "d", {"b": 4})
    write_scenes(tmp_path / "d", {"c": 4}, 50)
    with pytest.raises(
        UserError, match=r"class 'a': none of its 4 pictures .* a/000\.png: the same bytes as 'b/000\.png'"
    ):
        load_photos(tmp_path / "d")


def test_a_class_of_one_patient_cannot_be_split(tmp_path, cache):
    write_photos(tmp_path / "d", {"ill/p1": 5, "well/p2": 3, "well/p3": 3})
    with pytest.raises(UserError, match=r"'ill' has 1 .* expected at least 2 \(5 pictures that must stay together\)"):
        load_photos(tmp_path / "d", group="folder")


def test_group_folder_keeps_patients_together_also_across_classes(tmp_path, cache):
    for number in range(20):
        write_photos(tmp_path / "d", {f"well/p{number}": 2, f"ill/p{number}": 2}, seed=number)
    (tmp_path / "d" / "well" / "alone.png").write_bytes((tmp_path / "d" / "well" / "p3" / "000.png").read_bytes())
    photos = load_photos(tmp_path / "d", group="folder")
    patient = np.array([name.split("/")[1] for name in photos.names])
    for one in np.unique(patient[patient != "alone.png"]):
        assert len(set(photos.splits[patient == one])) == 1
    assert set(photos.splits) == {"train", "val", "test"}
    loose = load_photos(tmp_path / "d")
    assert any(len(set(loose.splits[patient == one])) > 1 for one in np.unique(patient))
    notes = open_dataset(str(tmp_path / "d"), group="folder").notes
    assert "--group folder: 20 groups of 80 photos; 1 photo without a group stands alone" in notes


def test_one_group_is_not_groups(tmp_path):
    write_photos(tmp_path / "d", {"a": 1, "b": 2})
    (tmp_path / "d" / "a" / "scene").mkdir()
    (tmp_path / "d" / "a" / "000.png").rename(tmp_path / "d" / "a" / "scene" / "000.png")
    [note] = open_dataset(str(tmp_path / "d"), group="folder").notes
    assert note == "--group folder: 1 group of 1 photo; 2 photos without a group stand alone"


def test_group_by_a_pattern_of_the_path(tmp_path, cache):
    write_photos(tmp_path / "d", {"a": 40, "b": 40})
    photos = load_photos(tmp_path / "d", group=r"(\d\d)\d\.png")
    camera = np.array([name[-7:-5] for name in photos.names])
    assert all(len(set(photos.splits[camera == one])) == 1 for one in np.unique(camera))


@pytest.mark.parametrize(("group", "message"), [
    ("(", "is no regular expression"),
    (r"\d+", "has no group, expected parentheses"),
    ("(nothing)", "no name in .* fits; a name is 'blue/000.png'"),
    ("folder", "has a folder below that of its class"),
])  # fmt: skip
def test_groups_that_make_no_sense_are_one_clear_line(photos, group, message):
    with pytest.raises(UserError, match=message):
        open_dataset(str(photos), group=group)


def test_what_was_left_out_is_in_split_csv_and_its_reason_in_bad_files_csv(photos, cache, tmp_path):
    from types import SimpleNamespace

    from vgg_flax.training import opening

    (photos / "red" / "empty.jpg").write_bytes(b"")
    found = load_photos(photos)
    settings = from_flat(TrainSettings, {"project": tmp_path / "runs"})
    with opening.open_run(settings, lambda default: settings) as run:
        run.start(found, SimpleNamespace(backbone={}, source="random", random=True), "cpu")
        with (run.folder / "split.csv").open() as file:
            rows = list(csv.DictReader(file))
        with (run.folder / "bad_files.csv").open() as file:
            assert list(csv.DictReader(file)) == [{"file": "red/empty.jpg", "reason": "empty file"}]
    assert len(rows) == 31
    assert [row for row in rows if row["split"] == "left_out"] == [
        {"file": "red/empty.jpg", "split": "left_out", "label": "red"}
    ]


def test_real_photos_have_36_groups_of_near_copies_and_none_straddles_the_split(masks, cache):
    photos = load_photos(masks, image_size="auto")
    assert photos.found["near_copy_groups"] == 36 and photos.found["largest_near_copy_group"] == 4
    assert photos.found["near_copies_with_two_labels"] == 0
    hashes = np.stack([difference_hash(cv2.imread(str(masks / name))[..., ::-1]) for name in photos.names])
    pairs = near_pairs(hashes)
    assert len(pairs) == 51
    assert (photos.splits[pairs[:, 0]] == photos.splits[pairs[:, 1]]).all()


def test_ten_photos_added_to_real_ones_move_none_that_did_not_join_a_group(masks, cache, tmp_path):
    files = sorted(masks.glob("*/*"))[::3]
    for file in files:
        (tmp_path / "d" / file.parent.name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / file.parent.name / file.name).symlink_to(file)
    before = load_photos(tmp_path / "d")
    for i, file in enumerate(files[:5]):  # five near-copies of old ones, five new
        cv2.imwrite(str(tmp_path / "d" / file.parent.name / f"new{i}.jpg"), cv2.imread(str(file)))
        cv2.imwrite(str(tmp_path / "d" / file.parent.name / f"other{i}.png"), scene(i))
    after = load_photos(tmp_path / "d")
    assert after.decoded == 10
    group = dict(zip(after.names, after.groups, strict=True))
    old_group = dict(zip(before.names, before.groups, strict=True))
    joined = {group[name] for name in group if name not in old_group}
    place = dict(zip(after.names, after.splits, strict=True))
    for name, split in zip(before.names, before.splits, strict=True):
        assert place[name] == split or group[name] in joined


def test_the_digest_of_a_group_is_the_least_content(tmp_path, cache):
    write_scenes(tmp_path / "d", {"a": 10, "b": 10})
    cv2.imwrite(str(tmp_path / "d" / "a" / "copy.jpg"), scene(0))
    photos = load_photos(tmp_path / "d")
    two = [hashlib.sha256((tmp_path / "d" / "a" / name).read_bytes()).hexdigest() for name in ("000.png", "copy.jpg")]
    assert {photos.groups[photos.names.index(name)] for name in ("a/000.png", "a/copy.jpg")} == {min(two)}
