"""Small pictures and small networks that several test files share."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

os.environ["KERAS_BACKEND"] = "jax"  # before any test module imports Keras
if hasattr(signal, "SIGHUP"):  # programs that tests start don't inherit what `nohup` ignores
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

from vgg_flax.data.photos import Photos
from vgg_flax.network.spec import BackboneSpec, HeadSpec, ModelSpec, Preprocessing

SMALL = BackboneSpec("vgg16", ((4,) * 2, (4,) * 2, (8,) * 3, (8,) * 3, (8,) * 3))


@pytest.fixture(autouse=True, scope="module")
def memory_goes_back() -> Iterator[None]:
    """What the programs of one file of tests took goes back to the system: without, 3000 tests take 6 GB."""
    yield
    if jax := sys.modules.get("jax"):
        jax.clear_caches()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):  # glibc alone keeps what is free
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder for this test alone."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("VGG_FLAX_CACHE", str(folder))
    return folder


@pytest.fixture
def small_spec() -> ModelSpec:
    """VGG16's shape with few channels, for 32-pixel pictures of three classes."""
    return ModelSpec(SMALL, HeadSpec(3), 32)


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing(32)


def write_photos(folder: Path, classes: dict[str, int], seed: int = 0) -> Path:
    """A folder of noisy one-colour pictures: the first class reddish, the second greenish, the third bluish."""
    rng = np.random.default_rng(seed)
    for label, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture = rng.integers(0, 90, (40, 48, 3), dtype=np.uint8)
            picture[..., 2 - label % 3] += 150
            cv2.imwrite(str(folder / name / f"{i:03}.png"), picture)
    return folder


def make_photos(count: int, size: int = 32, seed: int = 0) -> Photos:
    """Noise in three classes, already decoded, every fourth picture for validation and every fifth for the test."""
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)
    contents = np.array([hashlib.sha256(image.tobytes()).hexdigest() for image in images])
    splits = np.array(["test" if i % 5 == 4 else "val" if i % 4 == 3 else "train" for i in range(count)])
    labels, names = np.arange(count, dtype=np.int32) % 3, tuple(f"{i}.png" for i in range(count))
    return Photos("photos", ("a", "b", "c"), images, labels, names, contents, contents, splits)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """30 pictures in three classes, easily told apart by colour."""
    return write_photos(tmp_path / "photos", {"blue": 10, "green": 10, "red": 10})


@pytest.fixture
def masks() -> Path:
    """The real photos named by VGG_FLAX_TEST_DATA."""
    folder = Path(os.environ.get("VGG_FLAX_TEST_DATA", "")) / "masks"
    if not folder.is_dir():
        pytest.skip("VGG_FLAX_TEST_DATA names no folder with the real photos")
    return folder
