"""What is stored of the frozen convolutions: the same as computing them again, whatever happens in between."""

import dataclasses
import shutil

import jax
import numpy as np
import pytest

from vgg_flax.data.photos import Pictures
from vgg_flax.errors import UserError
from vgg_flax.network import augment, model
from vgg_flax.network.extract import MAP_BYTES, Extractor, batch_size, choose_engine
from vgg_flax.network.preprocess import normalize
from vgg_flax.network.spec import BACKBONES, HeadSpec
from vgg_flax.settings import AugmentSettings
from vgg_flax.store import extract_view

CONFIG = AugmentSettings(flip=True)


@pytest.fixture
def extractor(small_spec, preprocessing):
    backbone = jax.tree.map(np.asarray, model.init_backbone(small_spec, jax.random.key(0)))
    return Extractor(small_spec, backbone, preprocessing, "xla")


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.setattr("vgg_flax.features.batch_size", lambda size: 4)
    images = np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), np.uint8)
    return Pictures(images, np.arange(11), np.array([f"{i}" for i in range(11)]), (), "digest")


def extract(extractor, pictures, view, **changes):
    given = {"indices": np.array([9, 1, 4, 7, 3, 0]), "seed": 0, "config": CONFIG} | changes
    return extract_view(extractor, pictures, view=view, **given)


@pytest.fixture
def maps_extractor(small_spec, preprocessing):
    backbone = jax.tree.map(np.asarray, model.init_backbone(small_spec, jax.random.key(0)))
    return Extractor(small_spec, backbone, preprocessing, "xla", "block4")


@pytest.mark.parametrize("output", ["features", "block4"])
@pytest.mark.parametrize("view", [0, 1])
def test_what_is_stored_equals_what_is_fresh(extractor, maps_extractor, pictures, cache, view, output):
    extractor = {"features": extractor, "block4": maps_extractor}[output]
    stored = extract(extractor, pictures, view)
    assert stored.shape == (6, *extractor.shape) and stored.dtype == np.float32
    keys = augment.view_keys(0, view, np.arange(6)) if view else None
    fresh = extractor(pictures.images[[9, 1, 4, 7, 3, 0]], keys, CONFIG)
    np.testing.assert_allclose(stored, fresh, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["xla", "winograd"])
def test_maps_are_the_outputs_of_block4(small_spec, preprocessing, pictures, engine):
    backbone = model.init_backbone(small_spec, jax.random.key(0))
    maps = Extractor(small_spec, jax.tree.map(np.asarray, backbone), preprocessing, engine, "block4")(pictures.images)
    expected = model.bind_backbone(small_spec, backbone)(normalize(pictures.images, preprocessing))["block4"]
    assert maps.shape == (11, 2, 2, 8)
    np.testing.assert_allclose(maps, expected, rtol=1e-4, atol=1e-4 * float(np.abs(expected).max()))


def test_second_pass_reads_the_file(extractor, pictures, cache, monkeypatch):
    first = np.array(extract(extractor, pictures, 1))
    monkeypatch.setattr(Extractor, "__call__", lambda *args: pytest.fail("computed again"))
    np.testing.assert_array_equal(extract(extractor, pictures, 1), first)


@pytest.mark.parametrize("output", ["features", "block4"])
@pytest.mark.parametrize("view", [0, 1])
def test_an_interrupted_pass_goes_on_where_it_stopped(
    extractor, maps_extractor, pictures, cache, tmp_path, monkeypatch, view, output
):
    extractor = {"features": extractor, "block4": maps_extractor}[output]
    whole = np.array(extract(extractor, pictures, view, indices=np.arange(11)))
    monkeypatch.setenv("VGG_FLAX_CACHE", str(tmp_path / "other"))
    calls = []

    def stop_after_the_second_batch():
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(extractor, pictures, view, indices=np.arange(11), check=stop_after_the_second_batch)
    again = []
    rest = extract(extractor, pictures, view, indices=np.arange(11), check=lambda: again.append(None))
    assert len(again) == 1  # of three batches, only the last was left
    np.testing.assert_array_equal(rest, whole)


def test_everything_that_matters_changes_the_file(
    extractor, maps_extractor, pictures, cache, small_spec, preprocessing
):
    backbone = jax.tree.map(np.asarray, model.init_backbone(small_spec, jax.random.key(9)))
    other_weights = Extractor(small_spec, backbone, preprocessing, "xla")
    other_mean = dataclasses.replace(preprocessing, mean=(0.0, 0.0, 0.0))
    backbone = jax.tree.map(np.asarray, model.init_backbone(small_spec, jax.random.key(0)))
    other_preprocessing = Extractor(small_spec, backbone, other_mean, "xla")
    extract(extractor, pictures, 1)
    variants = [
        lambda: extract(extractor, pictures, 0),
        lambda: extract(extractor, pictures, 2),
        lambda: extract(extractor, pictures, 1, seed=1),
        lambda: extract(extractor, pictures, 1, config=AugmentSettings(flip=True, rotation=3)),
        lambda: extract(extractor, pictures, 1, indices=np.array([1, 2])),
        lambda: extract(extractor, dataclasses.replace(pictures, digest="other"), 1),
        lambda: extract(other_weights, pictures, 1),
        lambda: extract(other_preprocessing, pictures, 1),
        lambda: extract(maps_extractor, pictures, 1),
    ]
    for count, variant in enumerate(variants, 2):
        variant()
        assert len(list((cache / "features").glob("*.npy"))) == count


def test_clean_features_do_not_depend_on_augmentation_or_seed(extractor, pictures, cache):
    extract(extractor, pictures, 0)
    extract(extractor, pictures, 0, seed=5, config=AugmentSettings(rotation=1))
    assert len(list((cache / "features").glob("*.npy"))) == 1


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("size", [32, 64, 112, 224, 512, 1024])
def test_the_largest_activation_of_a_batch_stays_within_its_bytes(monkeypatch, backend, size):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    count, limit = batch_size(size), MAP_BYTES[backend]
    for spec in BACKBONES.values():
        a_picture = max(4 * max(block) * (size >> i) ** 2 for i, block in enumerate(spec.blocks))
        assert count * a_picture <= limit or (count == 1 and a_picture <= 256 * 2**20)
        assert count == 256 or (count + 1) * a_picture > limit  # no smaller than it need be


def test_maps_do_not_depend_on_what_the_head_reads(maps_extractor, pictures, cache, small_spec, preprocessing):
    extract(maps_extractor, pictures, 0)
    other = dataclasses.replace(small_spec, head=HeadSpec(2, "flatten"))
    extract(Extractor(other, maps_extractor._backbone, preprocessing, "xla", "block4"), pictures, 0)
    assert len(list((cache / "features").glob("*.npy"))) == 1


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(maps_extractor, pictures, cache, monkeypatch):
    usage = shutil.disk_usage(cache.parent)
    needed = 6 * 2 * 2 * 8 * 4
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed - 1))
    with pytest.raises(UserError, match="set VGG_FLAX_CACHE to a folder on a larger disk"):
        extract(maps_extractor, pictures, 0)
    assert not list((cache / "features").glob("*.part"))
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=needed))
    assert len(extract(maps_extractor, pictures, 0)) == 6


def test_low_precision_and_choice_both_lead_to_xla(small_spec, capsys):
    assert choose_engine("xla", small_spec) == "xla"
    assert choose_engine("auto", dataclasses.replace(small_spec, precision="bfloat16")) == "xla"
    assert "XLA's own convolutions (--precision is bfloat16)" in capsys.readouterr().out


def test_a_network_that_the_kernel_cannot_run_goes_to_xla(small_spec, preprocessing, pictures, capsys):
    blocks = ((4,), *small_spec.backbone.blocks[1:])
    spec = dataclasses.replace(small_spec, backbone=dataclasses.replace(small_spec.backbone, blocks=blocks))
    backbone = jax.tree.map(np.asarray, model.init_backbone(spec, jax.random.key(0)))
    assert Extractor(spec, backbone, preprocessing, "auto")(pictures.images).shape == (11, spec.head_inputs)
    assert "XLA's own convolutions (block1 of this network has a single convolution)" in capsys.readouterr().out
    with pytest.raises(UserError, match="--engine winograd can't be had: block1"):
        Extractor(spec, backbone, preprocessing, "winograd")
