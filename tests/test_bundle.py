"""A trained model on disk and at work."""

import dataclasses
import hashlib
import json
import weakref

import cv2
import jax
import numpy as np
import pytest
import safetensors.numpy

from vgg_flax.answers import bundle
from vgg_flax.answers.judge import Judge, with_references
from vgg_flax.answers.predictor import Predictor, newest_run
from vgg_flax.errors import UserError
from vgg_flax.network import model, params
from vgg_flax.network.extract import Extractor
from vgg_flax.network.preprocess import prepare_frame, resize
from vgg_flax.network.spec import Preprocessing


@pytest.fixture
def trained(small_spec, preprocessing):
    rng = np.random.default_rng(0)
    spec = dataclasses.replace(small_spec, head=dataclasses.replace(small_spec.head, hidden=(16,)))
    shapes = params.flatten(model.abstract_params(spec))
    flat = {path: rng.normal(size=leaf.shape, scale=0.3).astype(np.float32) for path, leaf in shapes.items()}
    flat["head/standardize/std"] = np.abs(flat["head/standardize/std"]) + 0.5
    record = dataclasses.replace(preprocessing, mean=(100.0, 110.0, 120.0), std=(50.0, 60.0, 70.0))
    return bundle.Bundle(spec, params.unflatten(flat), ("cat", "dog", "émeu"), record, Judge(1.7), {"data": "test"})


def test_a_bundle_comes_back_as_it_was(trained, tmp_path):
    bundle.save(trained, tmp_path / "run" / "model")
    for path in (tmp_path / "run", tmp_path / "run" / "model", tmp_path / "run" / "model" / "model.json"):
        loaded = bundle.load(path)
        assert dataclasses.replace(loaded, params={}) == dataclasses.replace(trained, params={})
        for name, array in params.flatten(trained.params).items():
            np.testing.assert_array_equal(params.flatten(loaded.params)[name], array)


@pytest.fixture
def informed(trained):
    """A bundle whose judge knows twelve training photos."""
    width = trained.spec.backbone.blocks[-1][-1]
    averages = np.random.default_rng(3).random((12, width), np.float32)
    judge = with_references(Judge(1.7, sure=0.6), averages, np.zeros(12, int), [f"cat/{i}.jpg" for i in range(12)])
    return dataclasses.replace(trained, judge=dataclasses.replace(judge, seen=bytes(64)))


def test_the_training_photos_that_a_judge_knows_travel_with_it(informed, tmp_path):
    bundle.save(informed, tmp_path / "model")
    assert bundle.load(tmp_path / "model").judge == informed.judge
    images = np.random.default_rng(4).integers(0, 256, (3, *[informed.spec.image_size] * 2, 3), np.uint8)
    for one in Predictor(informed).predict(images):
        assert one.familiarity > 0 and len(one.nearest) == 5 and one.candidates[0] == one.label
        assert set(one.nearest) <= {f"cat/{i}.jpg" for i in range(12)}


def test_a_damaged_or_missing_judge_is_one_clear_line(informed, tmp_path):
    bundle.save(informed, tmp_path / "model")
    path = tmp_path / "model" / "judge.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match=r"judge\.safetensors was changed or damaged \(SHA-256\)"):
        bundle.load(tmp_path / "model")
    path.unlink()
    with pytest.raises(UserError, match=r"holds no usable model: FileNotFoundError"):
        bundle.load(tmp_path / "model")


def test_a_model_that_is_not_finite_refuses(trained):
    broken = params.unflatten({**params.flatten(trained.params), "head/fc1/bias": np.full(16, np.nan, np.float32)})
    with pytest.raises(UserError, match=r"gone: head/fc1/bias holds NaN or infinity"):
        Predictor(dataclasses.replace(trained, params=broken), "gone")
    huge = jax.tree.map(lambda leaf: np.full_like(leaf, 1e30), trained.params)
    size = trained.spec.image_size
    with pytest.raises(UserError, match="its output holds NaN or infinity"):
        Predictor(dataclasses.replace(trained, params=huge)).predict(np.full((1, size, size, 3), 200, np.uint8))


def test_a_backbone_without_a_head_is_kept_in_the_same_two_files(trained, tmp_path):
    record = bundle.describe(trained.spec.backbone, None, trained.preprocessing, (), {"source": "theirs.h5"})
    bundle.write(tmp_path / "headless", record, bundle.entries({"backbone": trained.params["backbone"]}))
    bundle.save(trained, tmp_path / "whole")
    for name, training in (("headless", {"source": "theirs.h5"}), ("whole", trained.training)):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["model.json", "model.safetensors"]
        found = bundle.load_backbone(tmp_path / name)
        assert (found.spec, found.preprocessing) == (trained.spec.backbone, trained.preprocessing)
        assert found.training == training
        assert params.digest(found.params) == params.digest(trained.params["backbone"])
    with pytest.raises(UserError, match=r"holds a backbone without a head\. Train one on it: vgg-flax train --weights"):
        bundle.load(tmp_path / "headless")


def test_of_the_arrays_one_at_a_time_is_in_memory(tmp_path):
    """Of VGG's 553 MB the largest is 411 MB."""
    made = []

    def make():
        assert not any(old() is not None for old in made)
        array = np.ones((4, 5), np.float32)
        made.append(weakref.ref(array))
        return array

    entries = [bundle.Entry(name, (4, 5), make) for name in "abc"]
    sha256 = bundle.write_arrays(tmp_path / "w.safetensors", entries, {"made": "here"})
    assert len(made) == 3
    data = (tmp_path / "w.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == sha256
    assert {name: array.shape for name, array in safetensors.numpy.load(data).items()} == dict.fromkeys("abc", (4, 5))


def test_an_array_of_another_shape_than_declared_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"a has shape \(3,\), expected \(4,\)"):
        bundle.write_arrays(tmp_path / "w.safetensors", [bundle.Entry("a", (4,), lambda: np.ones(3))])
    assert not list(tmp_path.iterdir())


def damage_json(folder):
    (folder / "model.json").write_text("{")


def damage_arrays(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-8])


def forget_a_class(folder):
    record = json.loads((folder / "model.json").read_text())
    record["classes"].pop()
    (folder / "model.json").write_text(json.dumps(record))


def widen_the_head(folder):
    record = json.loads((folder / "model.json").read_text())
    record["head"]["hidden"] = [17]
    (folder / "model.json").write_text(json.dumps(record))


def come_from_the_future(folder):
    record = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(record | {"format": 2}))


@pytest.mark.parametrize(("damage", "message"), [
    (damage_json, "holds no usable model"),
    (damage_arrays, "was changed or damaged"),
    (forget_a_class, "names 2 classes, expected 3"),
    (widen_the_head, r"head/fc1/kernel has shape \(48, 16\), expected \(48, 17\)"),
    (come_from_the_future, "has format 2, expected 1"),
])  # fmt: skip
def test_a_damaged_bundle_is_refused_in_one_line(trained, tmp_path, damage, message):
    bundle.save(trained, tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=message):
        bundle.load(tmp_path)


def test_no_bundle_is_one_line_too(tmp_path):
    with pytest.raises(UserError, match="no trained model in"):
        bundle.load(tmp_path / "nowhere")


def numpy_forward(trained, images):
    """The same network in plain loops over taps: no shared code with the package's layers."""

    def conv(x, layer):
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        h, w = x.shape[1:3]
        taps = [padded[:, i : i + h, j : j + w] @ layer["kernel"][i, j] for i in range(3) for j in range(3)]
        return np.maximum(sum(taps) + layer["bias"], 0)

    x = (images.astype(np.float64) - np.array(trained.preprocessing.mean)) / np.array(trained.preprocessing.std)
    pooled = []
    for i, block in enumerate(trained.spec.backbone.blocks, 1):
        for j in range(1, len(block) + 1):
            x = conv(x, trained.params["backbone"][f"block{i}_conv{j}"])
        n, h, w, c = x.shape
        x = x.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
        pooled += [x.mean((1, 2)), x.max((1, 2))]
    head = trained.params["head"]
    features = (np.concatenate(pooled[4:], -1) - head["standardize"]["mean"]) / head["standardize"]["std"]
    hidden = np.maximum(features @ head["fc1"]["kernel"] + head["fc1"]["bias"], 0)
    logits = (hidden @ head["predictions"]["kernel"] + head["predictions"]["bias"]) / trained.judge.temperature
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def test_predictor_agrees_with_plain_numpy(trained):
    images = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    predictor = Predictor(trained, engine="xla")
    ours = predictor.predict(images)
    expected = numpy_forward(trained, images)
    for one, row in zip(ours, expected, strict=True):
        np.testing.assert_allclose(one.probabilities, row, atol=1e-5)
        assert one.label == trained.classes[row.argmax()]
        assert one.probability == pytest.approx(row.max(), abs=1e-5)


def test_file_frame_and_array_of_the_same_pixels_agree(trained, tmp_path):
    frame = np.random.default_rng(1).integers(0, 256, (57, 41, 3), np.uint8)
    (tmp_path / "x.png").write_bytes(cv2.imencode(".png", frame)[1].tobytes())
    predictor = Predictor(trained, engine="xla")
    array = resize(np.ascontiguousarray(frame[:, :, ::-1]), trained.preprocessing)
    answers = [
        predictor.predict_file(tmp_path / "x.png").probabilities,
        predictor.predict(prepare_frame(frame, trained.preprocessing)[None])[0].probabilities,
        predictor.predict(array[None])[0].probabilities,
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-6)
    np.testing.assert_allclose(answers[0], answers[2], atol=1e-6)


def test_newest_run_is_the_one_that_finished_last(trained, tmp_path):
    import os

    with pytest.raises(UserError, match="no finished run in"):
        newest_run(tmp_path)
    for age, name in ((5, "train2"), (1, "mine"), (9, "train")):
        bundle.save(trained, tmp_path / name / "model")
        os.utime(tmp_path / name / "model" / "model.json", (1e9 - age, 1e9 - age))
    (tmp_path / "unfinished").mkdir()
    assert newest_run(tmp_path).name == "mine"


def test_both_engines_give_the_same_features(small_spec):
    backbone = jax.tree.map(np.asarray, model.init_backbone(small_spec.backbone, jax.random.key(0)))
    images = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), np.uint8)
    record = Preprocessing(32)
    ours, xla = (
        np.asarray(Extractor(small_spec.backbone, backbone, record, engine=engine)(images)["pooled"])
        for engine in ("winograd", "xla")
    )
    assert np.linalg.norm(ours - xla) / np.linalg.norm(xla) < 1e-5
