"""The latest and the best are kept, whole, whatever the numbers do."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vgg_flax.network.model import init_head
from vgg_flax.network.spec import CUTS
from vgg_flax.training.checkpoint import Checkpoints, rank
from vgg_flax.training.task import Recipe, Task


@pytest.fixture
def state(small_spec):
    task = Task(small_spec, CUTS["none"], Recipe(10, 1e-3, 1e-2, 0.1))
    return task.init({"head": init_head(small_spec, jax.random.key(0))})[0]


def metrics(accuracy, loss):
    return {"val_accuracy": accuracy, "val_loss": loss, "val_count": 150}


def moved(state, number):
    return dataclasses.replace(state, step=jnp.asarray(number, jnp.int32))


def test_latest_and_best_survive(tmp_path, state):
    history = [(0.5, 1.0), (0.9, 0.5), (0.7, 0.1), (math.nan, math.nan), (0.9, 0.2), (0.3, 0.9)]
    with Checkpoints(tmp_path) as checkpoints:
        for epoch, (accuracy, loss) in enumerate(history, 1):
            checkpoints.save(epoch, moved(state, epoch), metrics(accuracy, loss))
    with Checkpoints(tmp_path) as checkpoints:
        assert (checkpoints.latest, checkpoints.best) == (6, 5)
        assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["5", "6"]
        assert int(checkpoints.restore(5, state).step) == 5


def test_restored_state_has_the_same_structure_types_and_bits(tmp_path, state):
    noisy = jax.tree.map(lambda leaf: leaf + 3 if leaf.dtype == jnp.int32 else leaf + 1 / 3, state)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, noisy, metrics(1.0, 0.0))
        restored = checkpoints.restore(1, state)
    assert jax.tree.structure(restored) == jax.tree.structure(noisy)
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(noisy), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_saving_an_epoch_twice_is_an_error_not_a_shrug(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(2, state, metrics(0.5, 0.5))
        with pytest.raises(Exception, match="already exists"):
            checkpoints.save(2, state, metrics(0.6, 0.5))


def test_an_unfinished_checkpoint_is_not_seen(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, metrics(0.5, 0.5))
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest == 1
        checkpoints.save(2, state, metrics(0.5, 0.4))
        assert checkpoints.latest == 2


def test_rank_is_accuracy_then_loss():
    order = [metrics(0.5, 9.0), metrics(0.5, 0.1), metrics(0.5 + 1 / 150, 99.0), metrics(1.0, 0.2), metrics(1.0, 0.1)]
    assert sorted(order, key=rank) == order
    assert rank(metrics(1.0, math.nan)) == -math.inf


def test_nothing_saved_yet(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest is None and checkpoints.best is None
