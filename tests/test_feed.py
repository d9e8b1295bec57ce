"""Batches: every picture once an epoch, in the view that the plan says, wherever it comes from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_photos

from vgg_flax.network import model
from vgg_flax.network.extract import Extractor
from vgg_flax.network.spec import CUTS, HeadSpec
from vgg_flax.settings import TrainSettings, from_flat
from vgg_flax.store import FeatureStore
from vgg_flax.training import feed as feeds
from vgg_flax.training.feed import Feed, plan_epoch
from vgg_flax.training.task import Recipe, Task


@pytest.mark.parametrize(("count", "batch"), [(1, 4), (8, 4), (10, 4), (3, 64)])
def test_an_epoch_shows_every_picture_once(count, batch):
    plan = plan_epoch(count, batch, views=3, seed=5, epoch=2)
    assert plan.indices.shape == plan.views.shape == plan.weights.shape == (-(-count // batch), batch)
    assert sorted(plan.indices[plan.weights == 1]) == list(range(count))
    assert set(np.unique(plan.views)) <= {0, 1, 2}


def test_epochs_differ_and_repeat_with_the_seed():
    plans = [plan_epoch(50, 8, 2, seed, epoch).indices for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert (plans[0] == plans[3]).all()
    assert (plans[0] != plans[1]).any() and (plans[0] != plans[2]).any()


def make_feed(spec, preprocessing, photos, what, **options):
    settings = from_flat(TrainSettings, {"head": "linear", "batch_size": 5, "data": "photos", **options})
    backbone = jax.tree.map(np.asarray, model.init_backbone(spec.backbone, jax.random.key(0)))
    outputs = tuple({"pooled", what} - {"images"})
    extractor = Extractor(spec.backbone, backbone, preprocessing, engine="xla", outputs=outputs)
    feed = Feed(photos, FeatureStore(extractor, settings.augmentation, 0), what, settings)
    feed.fill()
    return feed


@pytest.mark.parametrize("what", ["pooled", "block4"])
def test_stored_batches_pick_the_view_that_the_plan_says(small_spec, preprocessing, cache, monkeypatch, what):
    monkeypatch.setattr(feeds, "CHUNK_BYTES", 1)  # a chunk for every step
    feed = make_feed(small_spec, preprocessing, make_photos(12), what, views=3)
    plan = plan_epoch(len(feed.fitted), 5, 3, 0, 1)
    parts = list(feed.epoch(1))
    assert len(parts) == len(plan.indices)
    for k, part in enumerate(parts):
        for j in range(5):
            row = feed.fitted[plan.indices[k, j]]
            expected = feed.store.rows(what, feed.photos.contents[[row]], plan.views[k, j])[0]
            np.testing.assert_array_equal(part.inputs[0, j], expected)
            assert part.labels[0, j] == feed.photos.labels[row]


@pytest.mark.parametrize(("rows", "size", "pieces"), [(7, 3, 3), (6, 3, 2), (2, 3, 1), (0, 3, 0)])
def test_clean_chunks_have_one_length_and_lose_nothing(
    small_spec, preprocessing, cache, monkeypatch, rows, size, pieces
):
    feed = make_feed(small_spec, preprocessing, make_photos(12), "pooled")
    monkeypatch.setattr(feeds, "batch_size", lambda _: size)
    chosen = 3 + np.arange(rows)
    found = list(feed.clean(chosen))
    assert len(found) == pieces and len({len(inputs) for inputs, _ in found}) <= 1
    joined = [inputs[:count] for inputs, count in found]
    if rows:
        np.testing.assert_array_equal(np.concatenate(joined), feed.pooled(chosen))


@pytest.mark.parametrize("unfreeze", ["none", "block5"])
def test_training_from_what_is_stored_equals_training_from_pictures(small_spec, preprocessing, cache, unfreeze):
    spec = small_spec if unfreeze == "none" else dataclasses.replace(small_spec, head=HeadSpec(3, (5,)))
    task = Task(spec, CUTS[unfreeze], Recipe(10, 1e-2, 1e-2, 0.1))
    photos = make_photos(12)

    def losses_and_moments(cache):
        feed = make_feed(spec, preprocessing, photos, task.what, cache=cache, views=1)
        backbone = model.init_backbone(spec.backbone, jax.random.key(0))
        head = model.init_head(spec, jax.random.key(1))
        head["predictions"]["kernel"] += np.random.default_rng(0).normal(size=(spec.head_inputs, 3))
        state, frozen = task.init(jax.tree.map(jnp.copy, {"backbone": backbone, "head": head}))
        losses = []
        for data in feed.epoch(0):
            state, sums = task.step(state, frozen, data, jax.random.key(0))
            losses.append(float(sums["loss"]))
        return losses, jax.tree.leaves(state.opt_state)

    (losses, moments), (expected_losses, expected_moments) = map(losses_and_moments, ("features", "none"))
    np.testing.assert_allclose(sum(losses), sum(expected_losses), rtol=1e-4)
    # Adam's moments are running means of the gradients and their squares.
    for found, expected in zip(moments, expected_moments, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_a_fresh_epoch_is_a_random_view_of_its_own_number(small_spec, preprocessing, cache):
    feed = make_feed(small_spec, preprocessing, make_photos(12), "pooled", cache="none")
    stored = make_feed(small_spec, preprocessing, make_photos(12), "pooled", views=3)
    for epoch in (0, 2):
        plan = plan_epoch(len(feed.fitted), 5, 1, 0, epoch)
        for k, part in enumerate(feed.epoch(epoch)):
            rows = feed.fitted[plan.indices[k]]
            expected = stored.store.rows("pooled", feed.photos.contents[rows], epoch)[:]
            np.testing.assert_allclose(part.inputs[0], expected, rtol=1e-4, atol=1e-4)
