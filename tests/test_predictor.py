"""A trained model in somebody's program: any number of pictures, and not a word on standard output."""

from __future__ import annotations

from pathlib import Path

import cv2
import jax
import numpy as np
import pytest

from vgg_flax.answers.bundle import Bundle
from vgg_flax.answers.predictor import Predictor
from vgg_flax.network import extract, model
from vgg_flax.network.preprocess import prepare_frame
from vgg_flax.network.spec import ModelSpec, Preprocessing
from vgg_flax.network.winograd import build

# Prints macros when asked for them, else leaves a file that is no library.
COMPILER = """#!/bin/sh
case "$*" in *-dM*) echo '#define __VERSION__ "1"'; exit;; esac
while [ "$1" != -o ]; do shift; done
echo library > "$2"
"""


@pytest.fixture
def bundle(small_spec: ModelSpec) -> Bundle:
    """A network whose answers differ from picture to picture."""
    backbone = model.init_backbone(small_spec.backbone, jax.random.key(0))
    head = model.init_head(small_spec, jax.random.key(1))
    kernel = head["predictions"]["kernel"]
    head["predictions"]["kernel"] = np.random.default_rng(0).normal(0, 0.01, kernel.shape).astype(np.float32)
    return Bundle(small_spec, {"backbone": backbone, "head": head}, ("a", "b", "c"), Preprocessing(32))


@pytest.fixture
def new_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path):
    """No kernel was compiled here yet, and what the compiler makes can't be loaded."""
    compiler = tmp_path / "c++"
    compiler.write_text(COMPILER)
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(build, "_library", None)


@pytest.mark.usefixtures("new_machine")
def test_what_it_has_to_say_goes_to_standard_error_or_to_the_caller(bundle: Bundle, cache: Path, capsys):
    lines: list[str] = []
    Predictor(bundle, say=lines.append).predict(np.zeros((1, 32, 32, 3), np.uint8))
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert lines[0].startswith("Compiling the Winograd kernel") and "can't be loaded" in lines[1]
    for library in (cache / "winograd").glob("*.so"):
        library.unlink()
    Predictor(bundle).predict(np.zeros((1, 32, 32, 3), np.uint8))
    printed = capsys.readouterr()
    assert printed.out == "", "the output of somebody's program is his own"
    assert printed.err.splitlines() == lines


def test_any_number_of_pictures_gets_the_answers_of_each_alone(bundle: Bundle, tmp_path: Path):
    predictor = Predictor(bundle, engine="xla")
    frames = np.random.default_rng(1).integers(0, 256, (5, 40, 50, 3), np.uint8)  # BGR
    images = np.stack([prepare_frame(frame, predictor.preprocessing) for frame in frames])
    together = predictor.probabilities(images)
    assert together.shape == (5, 3) and together.dtype == np.float32
    assert np.ptp(together, axis=0).max() > 1e-4, "pictures that get the same answer would prove nothing"
    for frame, image, expected in zip(frames, images, together, strict=True):
        prediction = predictor.predict(image[None])[0]
        np.testing.assert_allclose(prediction.probabilities, expected, atol=1e-6)
        assert prediction.label == predictor.classes[expected.argmax()]
        cv2.imwrite(str(tmp_path / "frame.png"), frame)
        np.testing.assert_array_equal(
            predictor.predict_file(tmp_path / "frame.png").probabilities, prediction.probabilities
        )
    assert predictor.probabilities(images[:0]).shape == (0, 3) and predictor.predict(images[:0]) == []


def test_more_pictures_than_a_batch_holds_get_the_same_answers(bundle: Bundle, monkeypatch: pytest.MonkeyPatch):
    predictor = Predictor(bundle, engine="xla")
    images = np.random.default_rng(1).integers(0, 256, (11, 32, 32, 3), np.uint8)
    alone = np.concatenate([predictor.probabilities(image[None]) for image in images])
    monkeypatch.setitem(extract.MAP_BYTES, "cpu", 4 * 64 * 32**2 * 4)
    assert extract.batch_size(32) == 4
    for count in (1, 3, 4, 5, 8, 11):  # within a batch, a full one, one more, two full ones, a rest of three
        np.testing.assert_allclose(predictor.probabilities(images[:count]), alone[:count], atol=1e-6)


WRONG = [((1, 32, 32, 3), np.float32), ((1, 33, 32, 3), np.uint8), ((32, 32, 3), np.uint8), ((1, 32, 32, 4), np.uint8)]


@pytest.mark.parametrize(
    "wrong", [np.zeros(*one) for one in WRONG], ids=[f"{kind.__name__}{list(shape)}" for shape, kind in WRONG]
)
def test_other_arrays_are_refused_by_shape_and_type(bundle: Bundle, wrong: np.ndarray):
    with pytest.raises(ValueError, match=r"expected uint8\[n, 32, 32, 3\]"):
        Predictor(bundle, engine="xla").probabilities(wrong)
