"""Random views: where each pixel goes, and that a view depends on its key alone."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vgg_flax.network.augment import augment, view_keys, warp
from vgg_flax.settings import AugmentSettings

STILL = AugmentSettings(rotation=0, shift=0, zoom=0, flip=False, brightness=0, contrast=0)
CONTENTS = np.array([hashlib.sha256(bytes([i])).hexdigest() for i in range(6)])  # of six pictures
IDENTITY, NO_SHIFT = jnp.eye(2), jnp.zeros(2)


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (6, 20, 28, 3), np.uint8)


def test_identity_warp_returns_the_picture(images):
    image = images[0].astype(np.float32)
    np.testing.assert_allclose(warp(image, IDENTITY, NO_SHIFT), image, atol=1e-3)


def test_quarter_turn_agrees_with_numpy(images):
    square = images[0, :, :20].astype(np.float32)
    turned = warp(square, jnp.array([[0.0, 1.0], [-1.0, 0.0]]), NO_SHIFT)
    np.testing.assert_allclose(turned, np.rot90(square), atol=1e-3)


def test_warp_agrees_with_scipy(images):
    from scipy.ndimage import affine_transform

    image = images[0].astype(np.float32)
    angle, zoom, shift = 0.3, 1.2, np.array([0.07, -0.11])
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) / zoom
    size, centre = np.array([20, 28]), np.array([9.5, 13.5])
    offset = centre + shift * size - matrix @ centre
    channels = [affine_transform(image[..., c], matrix, offset, order=1, mode="nearest") for c in range(3)]
    ours = warp(image, jnp.asarray(matrix, jnp.float32), jnp.asarray(shift, jnp.float32))
    np.testing.assert_allclose(ours, np.stack(channels, -1), atol=0.05)


def test_flip_alone_gives_the_picture_or_its_mirror_image(images):
    views = augment(images, view_keys(0, 1, CONTENTS), dataclasses.replace(STILL, flip=True))
    mirrored = 0
    for view, image in zip(views, images, strict=True):
        same, mirror = np.abs(view - image).max(), np.abs(view - image[:, ::-1]).max()
        assert min(same, mirror) < 1e-2
        mirrored += mirror < same
    assert 0 < mirrored < 6


def test_brightness_and_contrast_stay_in_range(images):
    strong = dataclasses.replace(STILL, brightness=1.0, contrast=1.0)
    views = augment(images, view_keys(0, 1, CONTENTS), strong)
    assert float(views.min()) >= 0 and float(views.max()) <= 255
    assert np.abs(np.asarray(views).mean((1, 2, 3)) - images.mean((1, 2, 3))).max() > 20


def test_a_view_does_not_depend_on_the_batch_it_travels_in(images):
    config = dataclasses.replace(AugmentSettings(), flip=True)
    together = augment(images, view_keys(7, 3, CONTENTS), config)
    alone = augment(images[4:5], view_keys(7, 3, CONTENTS[4:5]), config)
    np.testing.assert_allclose(together[4], alone[0], atol=2e-3)  # of 255; batches are summed in another order


def test_a_key_depends_on_seed_view_and_content_alone():
    def keys(*where):
        return jax.random.key_data(view_keys(*where)).tolist()

    together = keys(7, 3, CONTENTS)
    assert keys(7, 3, CONTENTS[::-1]) == together[::-1], "not on the place in the batch"
    assert [keys(7, 3, CONTENTS[i : i + 1])[0] for i in range(6)] == together, "nor on the company"
    assert keys(7, 3, CONTENTS[[2, 2]]) == [together[2]] * 2, "copies of a picture look the same"
    others = [keys(8, 3, CONTENTS), keys(7, 4, CONTENTS), together]
    assert len({tuple(key) for some in others for key in some}) == 18, "each of the three changes it"


def test_seed_view_and_picture_each_change_the_result(images):
    config = dataclasses.replace(AugmentSettings(), flip=True)
    same = np.repeat(images[:1], 2, axis=0)
    first = augment(same, view_keys(0, 1, CONTENTS[:2]), config)
    assert np.abs(first[0] - first[1]).max() > 1
    for seed, view in ((1, 1), (0, 2)):
        other = augment(same, view_keys(seed, view, CONTENTS[:2]), config)
        assert np.abs(other[0] - first[0]).max() > 1


def test_no_keys_means_the_clean_picture(images):
    clean = augment(images, None, AugmentSettings())
    assert clean.dtype == jnp.float32
    np.testing.assert_array_equal(clean, images)


def test_nothing_recompiles_from_batch_to_batch(images):
    keys = view_keys(0, 1, CONTENTS)
    config = dataclasses.replace(STILL, flip=True)
    augment(images, keys, config)
    before = augment._cache_size()
    augment(images[::-1], view_keys(5, 2, CONTENTS), config)
    assert augment._cache_size() == before
