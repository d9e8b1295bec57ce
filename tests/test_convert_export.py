"""What goes out runs elsewhere: onnxruntime, Keras and plain jax say of a picture what our Predictor says."""

import json

import jax
import numpy as np
import onnx
import pytest
import safetensors.numpy
from test_convert_files import KERAS_NOISE, SMALL16, SPECS, assert_same, random_backbone, read_top

import weights_convert
from vgg_flax.answers import bundle
from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictor import Predictor
from vgg_flax.commands.convert import main
from vgg_flax.errors import UserError
from vgg_flax.network import model
from vgg_flax.network.extract import Extractor
from vgg_flax.network.spec import VGG16, HeadSpec, ModelSpec, Preprocessing
from weights_convert import rounding, verify, writers

pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)
HEADS = {
    "default": HeadSpec(3),
    "maxima first": HeadSpec(3, (4, 5), ("maximum", "average"), (5,)),
    "block 5": HeadSpec(3, (5,)),
    "maxima": HeadSpec(3, (5, 3), ("maximum",), standardize=False),
    "block 4": HeadSpec(3, (4,), ("average",)),
    "one average": HeadSpec(3, (5,), ("average",)),
    "one maximum": HeadSpec(3, (5,), ("maximum",)),
    "notebook": HeadSpec(3, (5,), ("flatten",), (7, 6), standardize=False),
}


def make(head="default", backbone=SMALL16, size=64, mean=(123.68, 116.779, 103.939), std=(1.0, 1.0, 1.0)):
    """A model whose every parameter matters to its answer."""
    spec = ModelSpec(backbone, HEADS[head], size)
    arrays = {k: {"kernel": a, "bias": b} for k, (a, b) in random_backbone(backbone).items()}
    params = {"backbone": arrays, "head": jax.tree.map(np.asarray, model.init_head(spec, jax.random.key(0)))}
    preprocessing = Preprocessing(size, mean, std)
    rng = np.random.default_rng(2)
    for layer in params["head"].values():
        if "kernel" in layer:
            layer["bias"] = rng.normal(size=layer["bias"].shape).astype("f4")
            layer["kernel"] = (rng.normal(size=layer["kernel"].shape) / len(layer["kernel"]) ** 0.5).astype("f4")
    if HEADS[head].standardize:
        extract = Extractor(backbone, params["backbone"], preprocessing, engine="xla", say=[].append)
        rows = np.asarray(model.read_stored(spec, "pooled", {}, extract(verify.noise(size))["pooled"]))
        params["head"]["standardize"] = {"mean": rows.mean(0), "std": rows.std(0) + 0.1}
    return bundle.Bundle(spec, params, ("ant", "bee", "cat"), preprocessing, Judge(1.7), {"data": "insects"})


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("suffix", ["onnx", "keras", "h5", "stablehlo"])
def test_exported_model_says_the_same(tmp_path, head, suffix):
    ours = make(head, mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 40.0))
    probabilities = Predictor(ours, engine="xla").probabilities(verify.noise(64))
    assert np.ptp(probabilities, axis=0).max() > 0.05, "all pictures look alike to this model"
    path = tmp_path / f"m.{suffix}"
    name = writers.format_of(path, "auto")
    writers.write(ours, path, name)
    assert verify.check(ours, path, name).largest <= 1e-5
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_vgg19_goes_out_too(tmp_path):
    ours = make(backbone=SPECS["vgg19"])
    writers.write(ours, tmp_path / "m.onnx", "onnx")
    assert verify.check(ours, tmp_path / "m.onnx", "onnx").good


def test_a_wrong_temperature_is_noticed(tmp_path):
    import dataclasses

    ours = make()
    writers.write(ours, tmp_path / "m.onnx", "onnx")
    verdict = verify.check(dataclasses.replace(ours, judge=Judge(1.6)), tmp_path / "m.onnx", "onnx")
    assert not verdict.good and verdict.agree == 1


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("flag", "size"), [("--half", 0.5), ("--int8", 0.25)])
def test_smaller_onnx_files_agree_with_the_same_rounded_weights(tmp_path, capsys, head, flag, size):
    bundle.save(make(head), tmp_path / "run")
    for name, options in (("whole", []), ("small", [flag])):
        main(["export", str(tmp_path / "run"), str(tmp_path / f"{name}.onnx"), *options])
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("agrees with our model") == 2 and out.count("kernels move a probability by at most") == 1
    loaded = onnx.load(tmp_path / "small.onnx")
    onnx.checker.check_model(loaded, full_check=True)
    stored = {t.name: onnx.numpy_helper.to_array(t).nbytes for t in loaded.graph.initializer if "/kernel" in t.name}
    kernels = [layer["kernel"] for part in make(head).params.values() for layer in part.values() if "kernel" in layer]
    assert sum(stored.values()) < size * sum(kernel.nbytes for kernel in kernels) * 1.3
    assert (tmp_path / "small.onnx").stat().st_size < (tmp_path / "whole.onnx").stat().st_size


def test_rounding_is_within_half_a_step():
    rng = np.random.default_rng(0)
    kernel = (rng.normal(size=(3, 3, 4, 5)) * np.geomspace(1e-3, 1e3, 5)).astype("f4")
    kernel[..., 2] = 0
    integers, scales = rounding.to_int8(kernel)
    assert (np.abs(integers * scales - kernel) <= 0.5001 * scales).all() and np.abs(integers).max() == 127
    np.testing.assert_allclose(scales * 127, np.where(scales == 1 / 127, 1, np.abs(kernel).max((0, 1, 2))), rtol=1e-6)
    ours = make()
    sizes: dict[rounding.Weights, float] = {"float16": 1e-3, "int8": 1e-2}
    for weights, tolerance in sizes.items():
        kernel, found = (
            m.params["backbone"]["block1_conv1"]["kernel"] for m in (ours, rounding.rounded(ours, weights))
        )
        assert 0 < np.abs(found - kernel).max() <= tolerance * np.abs(kernel).max()


def test_only_onnx_has_smaller_weights(tmp_path, capsys):
    bundle.save(make(), tmp_path / "run")
    for args, message in (
        (["m.keras", "--half"], "keeps float32 weights"),
        (["m.onnx", "--half", "--int8"], "both given"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(["export", str(tmp_path / "run"), str(tmp_path / args[0]), *args[1:]])
        assert message in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_onnx_file_is_valid_and_carries_its_record(tmp_path):
    writers.write(make(), tmp_path / "m.onnx", "onnx")
    loaded = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(loaded, full_check=True)
    facts = {entry.key: json.loads(entry.value) for entry in loaded.metadata_props}
    assert (facts["judge"]["temperature"], facts["judge"]["min_precision"]) == (1.7, 0.95)
    assert facts["classes"] == ["ant", "bee", "cat"] and facts["training"] == {"data": "insects"}
    assert facts["preprocessing"]["image_size"] == 64
    (images,) = loaded.graph.input
    assert images.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert images.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("size", [1, 3])
def test_any_number_of_pictures(tmp_path, size):
    ours = make()
    for suffix, name in (("onnx", "onnx"), ("stablehlo", "stablehlo")):
        if not (tmp_path / f"m.{suffix}").exists():
            writers.write(ours, tmp_path / f"m.{suffix}", name)
        assert verify.check(ours, tmp_path / f"m.{suffix}", name, verify.noise(64)[:size]).good


@pytest.mark.parametrize(
    ("name", "suffix"), [("keras-weights", "h5"), ("torchvision", "safetensors"), ("onnx", "onnx")]
)
def test_backbone_comes_back_bit_for_bit(tmp_path, name, suffix):
    ours = make()
    path = tmp_path / f"w.{suffix}"
    writers.write(ours, path, name)
    found = weights_convert.load(str(path), SMALL16, say=[].append)
    assert_same(found.backbone, ours.params["backbone"])
    assert found.preprocessing.mean == ours.preprocessing.mean


def test_a_notebook_head_goes_out_as_keras_s_top(tmp_path):
    """Keras's own VGG16 takes the file and says what our Predictor says, temperature included."""
    import keras

    spec = ModelSpec(VGG16, HeadSpec(2, (5,), ("flatten",), (4096, 4096), standardize=False), 32)
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        """He's scale; the last layer smaller, so that the softmax is not sure of everything."""
        scale = (2 / np.prod(leaf.shape[:-1])) ** 0.5 / (50 if "predictions" in str(path) else 1)
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(scale if len(leaf.shape) > 1 else 0.1)

    arrays = jax.tree_util.tree_map_with_path(draw, model.abstract_params(spec))
    ours = bundle.Bundle(spec, arrays, ("ant", "bee"), Preprocessing(32), Judge(1.7))
    writers.write(ours, tmp_path / "w.h5", "keras-weights")
    assert verify.check(ours, tmp_path / "w.h5", "keras-weights").largest == 0
    network = keras.applications.VGG16(weights=str(tmp_path / "w.h5"), classes=2, input_shape=(32, 32, 3))
    photos = verify.noise(32)[:3]
    with jax.default_matmul_precision("float32"):
        said = network(keras.applications.vgg16.preprocess_input(photos.astype("f4")), training=False)
    expected = Predictor(ours, engine="xla").probabilities(photos)
    assert np.ptp(expected, axis=0).max() > 0.05, "all pictures look alike to this model"
    np.testing.assert_allclose(np.asarray(said), expected, atol=1e-5)
    small = make("notebook")
    writers.write(small, tmp_path / "small.h5", "keras-weights")
    found = read_top(tmp_path / "small.h5")
    last = small.params["head"]["predictions"]
    np.testing.assert_array_equal(found["fc2"]["kernel"], small.params["head"]["fc2"]["kernel"])
    np.testing.assert_array_equal(found["predictions"]["bias"], last["bias"] / np.float32(1.7))


def test_other_heads_stay_behind(tmp_path):
    for head in HEADS.keys() - {"notebook"}:
        writers.write(make(head), tmp_path / f"{head}.h5", "keras-weights")
        assert read_top(tmp_path / f"{head}.h5") == {}


@pytest.mark.parametrize(("name", "suffix"), [("keras-weights", "h5"), ("safetensors", "safetensors")])
def test_a_changed_head_is_noticed(tmp_path, name, suffix):
    ours = make("notebook")
    writers.write(ours, tmp_path / f"w.{suffix}", name)
    assert verify.check(ours, tmp_path / f"w.{suffix}", name).largest == 0
    ours.params["head"]["fc2"]["kernel"][3, 2] += 1
    assert not verify.check(ours, tmp_path / f"w.{suffix}", name).good
    with pytest.raises(UserError, match="other dense layers"):
        verify.check(make("default"), tmp_path / f"w.{suffix}", name)


def test_our_safetensors_come_back_bit_for_bit(tmp_path):
    ours = make(mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0))
    writers.write(ours, tmp_path / "w.safetensors", "safetensors")
    found = weights_convert.load(str(tmp_path / "w.safetensors"), SMALL16, say=[].append)
    assert_same(found.backbone, ours.params["backbone"])
    assert (found.preprocessing.mean, found.preprocessing.std) == ((1, 2, 3), (4, 5, 6))
    flat = safetensors.numpy.load_file(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(flat["head/predictions/kernel"], ours.params["head"]["predictions"]["kernel"])


def test_keras_itself_loads_the_weights_file(tmp_path):
    from test_convert_files import keras_backbone

    ours = make()
    writers.write(ours, tmp_path / "w.h5", "keras-weights")
    network = keras_backbone(SMALL16, name="empty")
    for layer in network.layers:
        layer.set_weights([np.zeros_like(a) for a in layer.get_weights()])
    network.load_weights(tmp_path / "w.h5")
    for layer, arrays in ours.params["backbone"].items():
        kernel, bias = network.get_layer(layer).get_weights()
        np.testing.assert_array_equal(bias, arrays["bias"])
        expected = arrays["kernel"][:, :, ::-1] if layer == "block1_conv1" else arrays["kernel"]
        np.testing.assert_array_equal(kernel, expected)


def test_keras_weights_need_kerass_statistics(tmp_path):
    with pytest.raises(UserError, match=r"only subtracts ImageNet's mean.*as \.keras"):
        writers.write(make(std=(2.0, 2.0, 2.0)), tmp_path / "w.h5", "keras-weights")
    assert not list(tmp_path.iterdir())


def test_whole_keras_model_comes_back(tmp_path):
    """Out as .keras and in again: the same answers from the bundle that `import` makes."""
    from weights_convert import convert, import_model, readers

    ours = make("notebook", mean=(0.0, 0.0, 0.0), std=(255.0, 255.0, 255.0))
    writers.write(ours, tmp_path / "m.keras", "keras")
    with readers.open_source(tmp_path / "m.keras") as source:
        found = convert.plan(source, SMALL16)
        backbone, head = import_model.read(source, found)
        how = import_model.preparation("rgb-raw", 64, head)
        back = import_model.make_bundle(found, backbone, head, ours.classes, how, {})
    photos = verify.noise(64)
    expected = Predictor(ours, engine="xla").probabilities(photos)
    np.testing.assert_allclose(Predictor(back, engine="xla").probabilities(photos), expected, atol=1e-5)


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_verify_never_builds_a_stranger_s_layers(tmp_path, suffix):
    import keras

    model = keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Lambda(lambda x: x), keras.layers.Dense(2)])
    path = tmp_path / f"m.{suffix}"
    model.save(path)
    with pytest.raises(UserError, match="which no export of ours has"):
        verify.check(make(), path, "keras")


def test_command_line(tmp_path, capsys):
    bundle.save(make(), tmp_path / "run" / "model")
    main(["export", str(tmp_path / "run"), str(tmp_path / "m.onnx")])
    assert "agrees with our model" in capsys.readouterr().out
    main(["verify", str(tmp_path / "run"), str(tmp_path / "m.onnx")])
    bundle.save(make("block 4"), tmp_path / "other")
    with pytest.raises(SystemExit, match="1"):
        main(["verify", str(tmp_path / "other"), str(tmp_path / "m.onnx")])
    assert "DIFFERS" in capsys.readouterr().out
    for args, message in (
        (["export", str(tmp_path / "run"), str(tmp_path / "m.onnx")], "exists"),
        (["export", str(tmp_path / "run"), str(tmp_path / "m.xyz")], "tells no format"),
        (["export", str(tmp_path / "none"), str(tmp_path / "x.onnx")], "no trained model"),
        (["verify", str(tmp_path / "run"), str(tmp_path / "none.onnx")], "cannot be opened"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(args)
        assert message in capsys.readouterr().err


def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vgg_flax.answers.bundle.os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        writers.write(make(), tmp_path / "w.safetensors", "safetensors")
    assert not list(tmp_path.iterdir())
