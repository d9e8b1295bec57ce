"""What is stored of the frozen layers: the same as computing it again, found by content, whatever happened before."""

import dataclasses

import jax
import numpy as np
import pytest
from conftest import make_photos

from vgg_flax import store as stores
from vgg_flax.errors import UserError
from vgg_flax.network import augment, model
from vgg_flax.network.extract import MAP_BYTES, MOST, Extractor, batch_size, choose_engine
from vgg_flax.network.preprocess import normalize
from vgg_flax.network.spec import BACKBONES, POOLED_BLOCKS, POOLS, pooled_columns
from vgg_flax.settings import AugmentSettings
from vgg_flax.store import FeatureStore

AUGMENTATION = AugmentSettings(flip=True)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch, cache):
    monkeypatch.setattr(stores, "batch_size", lambda size: 4)


@pytest.fixture
def backbone(small_spec):
    return jax.tree.map(np.asarray, model.init_backbone(small_spec.backbone, jax.random.key(0)))


@pytest.fixture
def extractor(small_spec, preprocessing, backbone):
    return Extractor(small_spec.backbone, backbone, preprocessing, engine="xla", outputs=("block4", "pooled"))


def fill(extractor, photos, view=0, *, seed=0, augmentation=AUGMENTATION, check=lambda: None):
    """(The store after a fill, what it computed)."""
    store = FeatureStore(extractor, augmentation, seed)
    store.fill(photos.images, photos.contents, view, check)
    return store


def subset(photos, rows):
    parts = {name: getattr(photos, name)[rows] for name in ("images", "labels", "contents", "groups", "splits")}
    return dataclasses.replace(photos, names=tuple(np.take(photos.names, rows)), **parts)


@pytest.mark.parametrize("view", [0, 1])
def test_what_is_stored_equals_what_is_fresh(extractor, view):
    photos = make_photos(11)
    store = fill(extractor, photos, view)
    keys = augment.view_keys(0, view, photos.contents) if view else None
    fresh = extractor(photos.images, keys, AUGMENTATION)
    for name in ("pooled", "block4"):
        stored = store.rows(name, photos.contents, view)
        assert stored.shape == (11, *extractor.shapes[name]) and stored.dtype == np.float32
        np.testing.assert_allclose(stored[:], fresh[name], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("engine", ["xla", "winograd"])
def test_rows_are_the_maps_of_block4_and_averages_and_maxima(small_spec, preprocessing, backbone, engine):
    images = make_photos(5).images
    found = Extractor(small_spec.backbone, backbone, preprocessing, engine=engine, outputs=("block4", "pooled"))(images)
    blocks = model.bind_backbone(small_spec.backbone, "float32", backbone)(normalize(images, preprocessing))
    np.testing.assert_allclose(found["block4"], blocks["block4"], rtol=1e-4, atol=1e-3)
    for block in POOLED_BLOCKS:
        for kind, pool in zip(POOLS, (np.mean, np.max), strict=True):
            columns = pooled_columns(small_spec.backbone, (block,), (kind,))
            expected = pool(np.asarray(blocks[f"block{block}"]), axis=(1, 2))
            np.testing.assert_allclose(found["pooled"][:, columns], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("view", [0, 1])
def test_nothing_is_computed_twice_whatever_is_renamed_relabelled_or_reordered(extractor, view):
    photos = make_photos(11)
    first = fill(extractor, photos, view)
    moved = subset(photos, np.random.default_rng(1).permutation(11)[:9])
    again = fill(extractor, dataclasses.replace(moved, labels=2 - moved.labels, classes=("x", "y", "z")), view)
    assert (first.computed, again.computed) == (11, 0)
    expected = dict(zip(photos.contents, first.rows("pooled", photos.contents, view)[:], strict=True))
    found = again.rows("pooled", moved.contents, view)[:]
    np.testing.assert_array_equal(found, [expected[content] for content in moved.contents])


def test_new_photos_are_computed_alone_with_the_bits_they_have_in_any_company(extractor, cache, monkeypatch, tmp_path):
    photos = make_photos(11)
    fill(extractor, subset(photos, np.arange(7)))
    grown = fill(extractor, photos)
    assert grown.computed == 4
    monkeypatch.setenv("VGG_FLAX_CACHE", str(tmp_path / "another"))
    at_once = fill(extractor, photos)
    for name in ("pooled", "block4"):
        rows = [store.rows(name, photos.contents)[:] for store in (grown, at_once)]
        np.testing.assert_array_equal(*rows)


def test_copies_of_a_photo_are_computed_once(extractor):
    photos = subset(make_photos(5), np.array([0, 1, 0, 2, 1, 0]))
    store = fill(extractor, photos)
    assert store.computed == 3
    rows = store.rows("pooled", photos.contents)[:]
    np.testing.assert_array_equal(rows[0], rows[5])


@pytest.mark.parametrize("view", [0, 1])
def test_an_interrupted_fill_goes_on_where_it_stopped(extractor, monkeypatch, tmp_path, view):
    photos, calls = make_photos(11), []

    def stop_after_the_second_batch():
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(extractor, photos, view, check=stop_after_the_second_batch)
    rest = fill(extractor, photos, view)
    assert rest.computed == 3  # of three batches of four, only the last was left
    found = rest.rows("block4", photos.contents, view)[:]
    monkeypatch.setenv("VGG_FLAX_CACHE", str(tmp_path / "undisturbed"))
    np.testing.assert_array_equal(found, fill(extractor, photos, view).rows("block4", photos.contents, view)[:])


def test_everything_that_matters_makes_another_row(small_spec, preprocessing, backbone, extractor):
    photos = make_photos(5)
    other_weights = jax.tree.map(np.asarray, model.init_backbone(small_spec.backbone, jax.random.key(9)))
    other_mean = dataclasses.replace(preprocessing, mean=(0.0, 0.0, 0.0))
    fill(extractor, photos, 1)
    variants = [
        lambda: fill(extractor, photos, 0),
        lambda: fill(extractor, photos, 2),
        lambda: fill(extractor, photos, 1, seed=1),
        lambda: fill(extractor, photos, 1, augmentation=AugmentSettings(flip=True, rotation=3)),
        lambda: fill(extractor, make_photos(5, seed=1), 1),
        lambda: fill(Extractor(small_spec.backbone, other_weights, preprocessing, engine="xla"), photos, 1),
        lambda: fill(Extractor(small_spec.backbone, backbone, other_mean, engine="xla"), photos, 1),
        lambda: fill(Extractor(small_spec.backbone, backbone, preprocessing, engine="winograd"), photos, 1),
    ]
    for variant in variants:
        assert variant().computed == 5
        assert variant().computed == 0


@pytest.mark.parametrize("module", ["augment", "preprocess"])
def test_another_version_of_the_code_is_another_store(small_spec, preprocessing, backbone, monkeypatch, module):
    def filled():
        extractor = Extractor(small_spec.backbone, backbone, preprocessing, engine="xla")
        return fill(extractor, make_photos(3)).computed

    assert (filled(), filled()) == (3, 0)
    monkeypatch.setattr(f"vgg_flax.network.{module}.VERSION", 99)
    assert filled() == 3


def test_clean_rows_do_not_depend_on_augmentation_or_seed(extractor):
    fill(extractor, make_photos(5), 0)
    assert fill(extractor, make_photos(5), 0, seed=5, augmentation=AugmentSettings(rotation=1)).computed == 0


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("size", [32, 64, 112, 224, 512, 1024])
def test_the_largest_activation_of_a_batch_stays_within_its_bytes(monkeypatch, backend, size):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    count, limit = batch_size(size), MAP_BYTES[backend]
    for spec in BACKBONES.values():
        a_picture = max(4 * max(block) * (size >> i) ** 2 for i, block in enumerate(spec.blocks))
        assert count * a_picture <= limit or (count == 1 and a_picture <= 256 * 2**20)
        assert count == MOST[backend] or (count + 1) * a_picture > limit  # no smaller than it need be


def test_low_precision_and_choice_both_lead_to_xla(small_spec):
    said = []
    assert choose_engine("xla", small_spec.backbone, "float32", said.append) == "xla" and not said
    assert choose_engine("auto", small_spec.backbone, "bfloat16", said.append) == "xla"
    assert said == ["engine: XLA's own convolutions (--precision is bfloat16)"]


def test_a_network_that_the_kernel_cannot_run_goes_to_xla(small_spec, preprocessing):
    spec = dataclasses.replace(small_spec.backbone, blocks=((4,), *small_spec.backbone.blocks[1:]))
    backbone, said = jax.tree.map(np.asarray, model.init_backbone(spec, jax.random.key(0))), []
    found = Extractor(spec, backbone, preprocessing, say=said.append)(make_photos(3).images)
    assert found["pooled"].shape == (3, 48)
    assert said == ["engine: XLA's own convolutions (block1 of this network has a single convolution)"]
    with pytest.raises(UserError, match="--engine winograd is unavailable: block1"):
        Extractor(spec, backbone, preprocessing, engine="winograd")
