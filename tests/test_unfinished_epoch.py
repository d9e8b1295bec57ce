"""A signal in the middle of an epoch loses nothing, kill -9 at most a minute, and neither changes a bit."""

import dataclasses
import signal

import jax
import numpy as np
import pytest
from conftest import make_photos
from filelock import FileLock
from test_feed import make_feed

from vgg_flax.ending import Stopped
from vgg_flax.network.model import init_backbone
from vgg_flax.network.spec import CUTS, HeadSpec
from vgg_flax.training import checkpoint, fit, runs
from vgg_flax.training import feed as feeds


class Killed(Exception):
    """As kill -9: nothing is saved any more."""


def stop_at(number, error):
    """A `check` that raises at the given call."""
    calls = iter(range(1, 10**6))

    def check():
        if next(calls) == number:
            raise error

    return check


@pytest.fixture
def train(tmp_path, small_spec, preprocessing, cache, monkeypatch):
    """A function that trains in the run folder of this name, or goes on there, and returns what comes out."""
    monkeypatch.setattr(feeds, "CHUNK_BYTES", 1)  # a chunk for every step
    photos = make_photos(40)

    def run(name, what="pooled", check=lambda: None):
        unfreeze = {"pooled": "none", "images": "all"}[what]
        feed = make_feed(small_spec, preprocessing, photos, what, epochs=3, unfreeze=unfreeze, dropout=0.3, head="mlp")
        spec = dataclasses.replace(small_spec, head=HeadSpec(3, hidden=(8,), dropout=0.3))
        backbone = jax.tree.map(np.asarray, init_backbone(spec.backbone, jax.random.key(0)))
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        with runs.Run(folder, feed.settings, FileLock(folder / ".lock")) as opened:
            opened.begun = True
            fitted = fit.fit_epochs(opened, spec, CUTS[unfreeze], backbone, feed, check)
        rows = [{key: f"{row[key]:.6g}" for key in row if "second" not in key} for row in fitted.log]
        return rows, [leaf.tobytes() for leaf in map(np.asarray, jax.tree.leaves(fitted.params))]

    return run


@pytest.mark.parametrize("what", ["pooled", "images"])
def test_a_signal_in_an_epoch_keeps_every_step_of_it(tmp_path, train, what):
    whole = train("whole", what)
    assert not (tmp_path / "whole" / "unfinished_epoch").exists()
    with pytest.raises(Stopped):
        train("stopped", what, stop_at(12, Stopped(signal.SIGTERM)))
    kept = checkpoint.Unfinished(tmp_path / "stopped" / "unfinished_epoch")
    assert kept._open().checkpoints[-1].metrics["steps"] > 1
    kept.__exit__()
    assert train("stopped", what) == whole
    assert not (tmp_path / "stopped" / "unfinished_epoch").exists()


def test_kill_9_loses_no_more_than_the_interval(tmp_path, train, monkeypatch):
    whole = train("whole")
    now = iter(np.arange(0, 10**6, 25.0))  # 25 seconds between any two looks at the clock
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(now))
    with pytest.raises(Killed):
        train("killed", check=stop_at(6, Killed()))
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir()] == []
    assert any(path.name.isdigit() for path in (tmp_path / "killed" / "unfinished_epoch").iterdir())
    assert train("killed") == whole


def test_a_part_of_an_epoch_that_has_a_checkpoint_of_its_own_is_dropped(tmp_path):
    with checkpoint.Unfinished(tmp_path / "unfinished_epoch") as unfinished:
        state = _State(jax.numpy.int32(7))
        unfinished.save(checkpoint.Part(4, state, 7))
        assert unfinished.begin(4, state).steps == 7
        assert unfinished.begin(5, state).steps == 0
    assert not (tmp_path / "unfinished_epoch").exists()


@dataclasses.dataclass(frozen=True)
class _State:
    step: jax.Array


jax.tree_util.register_dataclass(_State)
