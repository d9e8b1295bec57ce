"""The doctor's checks one by one: what was planted is found, and what is sound is left in peace."""

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from planted import CHANGES, scene

from vgg_flax.answers import judge
from vgg_flax.data.header import Header, read_header
from vgg_flax.insight import copies, labels, leaks, neighbours
from vgg_flax.insight.files import File
from vgg_flax.insight.findings import FIRST, LOOK, Finding, Findings, in_words, ranked

CLASSES = ("cat", "dog")


def thumbnail(image):
    return copies.thumbnail(image[..., ::-1])


@pytest.mark.parametrize("kind", CHANGES)
def test_a_changed_copy_lies_on_its_original(kind):
    rng = np.random.default_rng(0)
    originals = [scene(seed) for seed in range(10)]
    pairs = [copies.laid_over(thumbnail(image), thumbnail(CHANGES[kind](image, rng))) for image in originals]
    found = [pair for pair in pairs if pair]
    assert len(found) >= 9
    assert all(pair.mirrored == (kind == "mirrored") for pair in found)


def test_different_pictures_and_empty_ones_are_no_copies():
    some = [thumbnail(scene(seed)) for seed in range(12)] + [np.full((64, 64), 9, np.uint8)] * 2
    pairs = [(i, j) for i in range(len(some)) for j in range(i)]
    assert not [(i, j) for i, j in pairs if copies.laid_over(some[i], some[j])]


def test_copies_of_copies_are_one_group():
    pairs = [copies.Pair(0, 2, 1.0, False), copies.Pair(2, 4, 1.0, True)]
    numbers = copies.groups_of(pairs, 5)
    assert numbers[0] == numbers[2] == numbers[4] and len(set(numbers)) == 3
    assert len(set(copies.groups_of([], 3))) == 3


def test_nearest_is_what_comparing_all_pairs_gives(monkeypatch):
    monkeypatch.setattr(judge, "BLOCK_BYTES", 4 * 40 * 7)  # seven rows a block
    features = np.random.default_rng(0).random((40, 6), np.float32)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    every = ((units[:, None] - units[None]) ** 2).sum(-1)
    np.fill_diagonal(every, np.inf)
    rows, distances = neighbours.nearest(features)
    np.testing.assert_array_equal(rows, every.argsort(1)[:, :5])
    np.testing.assert_allclose(distances, np.sort(every, 1)[:, :5], atol=1e-5)
    assert neighbours.nearest(features[:1])[0].shape == (1, 0)
    assert neighbours.nearest(features[:3])[0].shape == (3, 2)


def test_the_far_are_outliers_and_they_can_not_hide_each_other():
    rng = np.random.default_rng(0)
    usual = rng.lognormal(0, 0.3, 1000).astype(np.float32)
    assert len(neighbours.outliers(usual)) <= 5
    usual[:20] = 8 + np.arange(20)
    found = neighbours.outliers(usual)
    assert list(found[:20]) == list(range(19, -1, -1))
    assert not len(neighbours.outliers(usual[:0]))


def clouds(count, classes, apart, seed=0):
    """Features in clouds, a cloud a class; labels."""
    rng = np.random.default_rng(seed)
    given = np.arange(count, dtype=np.int32) % classes
    return (rng.normal(size=(count, 12)) + apart * np.eye(12)[given]).astype(np.float32), given


def test_swapped_labels_are_suspected_the_surest_first():
    features, truth = clouds(300, 3, 6)
    given = truth.copy()
    swapped = np.random.default_rng(1).choice(300, 10, replace=False)
    given[swapped] = (given[swapped] + 1) % 3
    groups = np.array([f"{i:03}" for i in range(300)])
    probabilities = labels.out_of_fold(features, given, groups, 3)
    found = labels.suspects(probabilities, given)
    assert {one.row for one in found[:10]} == set(swapped) and len(found) <= 12
    assert all(one.suggested == truth[one.row] for one in found[:10])
    assert found == sorted(found, key=lambda one: one.given - one.probability)
    assert not labels.suspects(labels.out_of_fold(features, truth, groups, 3), truth)


def test_a_class_of_few_photos_is_not_suspected():
    given = np.array([0] * 30 + [1] * 5)
    probabilities = np.eye(2)[[0] * 30 + [1] * 4 + [0]]
    assert not labels.suspects(probabilities, given), "no model knows five photos"


def test_models_that_know_nothing_doubt_nothing():
    given = np.arange(100) % 2
    guess = np.random.default_rng(0).permutation(given)
    assert not labels.knows(np.eye(2)[guess], given)
    assert not labels.suspects(np.eye(2)[guess], given)


def test_classes_that_are_taken_for_each_other_are_named():
    given = np.repeat([0, 1, 2], 20)
    guess = given.copy()
    guess[:4] = 1
    found = labels.alike(np.eye(3)[guess], given)
    assert [tuple(one) for one in found] == [(0, 1, 4, 0, 0.1)]


def files(formats=("JPEG",), sizes=None, count=100, cameras=("",)):
    rng = np.random.default_rng(3)
    sizes = rng.integers(9_000, 20_000, count) if sizes is None else sizes
    return [
        File(f"{i:064x}", int(sizes[i]), Header(formats[i % len(formats)], 100, 80, cameras[i % len(cameras)]))
        for i in range(count)
    ]


def told(some_files, images, given):
    groups = np.array([one.content for one in some_files])
    return {clue.name: clue for clue in leaks.clues(some_files, images, given, groups, CLASSES)}


GIVEN = np.arange(100, dtype=np.int32) % 2
NOISE = np.random.default_rng(5).integers(0, 256, (100, 32, 32, 3), np.uint8)


def test_nothing_tells_the_class_of_sound_photos():
    assert not [clue.name for clue in told(files(), NOISE, GIVEN).values() if clue.tells]


def test_a_class_saved_as_png_gives_itself_away():
    clue = told(files(("JPEG", "PNG")), NOISE, GIVEN)["format"]
    assert clue.strong and clue.accuracy == 1 and clue.example in ("JPEG: 100% are cat", "PNG: 100% are dog")


def test_a_camera_gives_the_class_away():
    assert told(files(cameras=("", "Maker One")), NOISE, GIVEN)["camera"].strong


def test_a_file_size_gives_the_class_away():
    assert told(files(sizes=10_000 + 5_000 * GIVEN), NOISE, GIVEN)["file size"].strong


def test_a_brightness_gives_the_class_away():
    dark = (NOISE // np.where(GIVEN == 0, 1, 3)[:, None, None, None]).astype(np.uint8)
    assert told(files(), dark, GIVEN)["brightness"].strong


@pytest.mark.parametrize("trial", range(10))
def test_a_border_gives_the_class_away(trial):
    rng = np.random.default_rng(trial)
    images = np.stack([cv2.resize(scene(100 * trial + i), (64, 64)) for i in range(100)])
    label, deep, colour = trial % 2, 1 + trial % 3, rng.integers(0, 256, 3)
    for i in np.flatnonzero(label == GIVEN):
        image = images[i]
        for edge in (image[:deep], image[-deep:], image[:, :deep], image[:, -deep:]):
            edge[:] = colour
    clue = told(files(), images, GIVEN)["border"]
    assert clue.strong and clue.accuracy > 0.8


def test_too_few_photos_or_one_class_say_nothing():
    assert not told(files(count=10), NOISE[:10], GIVEN[:10])
    assert not told(files(), NOISE, np.zeros(100, np.int32))


def test_the_header_is_read_without_decoding():
    image = Image.fromarray(scene(0))
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model 5"
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    assert read_header(buffer.getvalue()) == Header("JPEG", 112, 96, "Maker Model 5")
    assert read_header(b"no picture") == Header()


def finding(kind, count, urgency):
    return Finding(
        kind, count, urgency, f"{kind} was found in a long sentence " * 3, "Do it.", ("file",), (("a.jpg",),)
    )


def test_what_is_urgent_comes_first_and_then_what_concerns_most():
    order = ranked([finding("few", 1, LOOK), None, finding("many", 50, LOOK), finding("bad", 1, FIRST)], 100)
    assert [one.kind for one in order] == ["bad", "many", "few"]
    summary = {
        "photos": 100,
        "megabytes": 1.5,
        "classes": {f"class {i}": 5 for i in range(20)},
        "splits": {},
        "formats": {"": 1},
        "short_side": [1, 2, 3],
        "told_apart": 0.5,
        "labels_doubted": False,
    }
    found = Findings("a/very/long/path" * 9, summary, {}, order)
    lines = in_words(found)
    assert max(map(len, lines)) <= 80 and "and 8 more" in " ".join(lines)
    assert "too few to doubt a label" in " ".join(" ".join(lines).split())
    assert json.loads(json.dumps(found.record()))["findings"][0]["kind"] == "bad"
    assert found.get("many") is order[1] and found.get("none") is None
    assert "Nothing wrong" in in_words(Findings("x", summary, {}, ()))[-1]
    assert in_words(Findings("a\nb", summary, {}, ()))[0].startswith("a\\nb: 100 photos")
