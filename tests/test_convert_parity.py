"""`verify FILE`: another framework runs its own file, and each stage is compared with ours."""

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import helper, numpy_helper
from test_convert_files import (
    KERAS_NOISE,
    SMALL16,
    keras_backbone,
    keras_network,
    random_backbone,
    random_top,
    write_keras_h5,
)
from test_convert_formats import batch_norms, torch_state, with_norms, write_torch_zip
from test_convert_onnx import vgg_graph

from vgg_flax.errors import UserError
from weights_convert import convert, parity, runtimes, verify

pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)
BLOCKS = [f"block{i}" for i in range(1, 6)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """`verify` takes full-size files; the tests' have few channels."""
    plan = convert.plan
    monkeypatch.setattr(convert, "plan", lambda source, **options: plan(source, SMALL16, **options))


def scaled():
    """Weights whose activations stay of one size, as a trained network's do."""
    arrays = random_backbone(SMALL16)
    return {k: (kernel / (0.3 * kernel[..., 0].size ** 0.5), bias * 0.1) for k, (kernel, bias) in arrays.items()}


def names(stages, kind="modelling"):
    return [stage.name for stage in stages if stage.kind == kind]


def test_keras_weights_with_their_top(tmp_path):
    path = write_keras_h5(tmp_path / "w.h5", scaled() | random_top(SMALL16, size=64))
    runtime, stages = parity.compare(path)
    assert runtime.startswith("Keras") and all(stage.good for stage in stages), stages
    assert names(stages) == [*BLOCKS, "fc1", "fc2", "probabilities"] and names(stages, "preprocessing") == ["input"]


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_whole_keras_model(tmp_path, suffix):
    import keras

    layers = keras.layers
    norm = layers.Normalization(mean=[0.5] * 24, variance=np.linspace(0.1, 1, 24))
    head = [layers.Flatten(), norm, layers.Dense(9, "relu"), layers.Dense(2, "softmax")]
    before = layers.Rescaling(1 / 127.5, offset=-1)
    keras.Sequential([keras.Input((64, 64, 3)), before, keras_backbone(SMALL16, 64), *head]).save(
        tmp_path / f"m.{suffix}"
    )
    sizes = []
    _, stages = parity.compare(tmp_path / f"m.{suffix}", lambda size: sizes.append(size) or verify.noise(size)[:2])
    assert sizes == [64], "photos come in the size that the model was made for"
    assert names(stages) == [*BLOCKS, "fc1", "probabilities"] and all(stage.good for stage in stages), stages
    assert not names(stages, "preprocessing"), "a whole model's own preprocessing is not in its file"


@pytest.mark.parametrize("producer", ["tf2onnx", "pytorch"])
def test_onnx_graph(tmp_path, producer):
    if producer == "pytorch":
        pytest.importorskip("torch")
    onnx.save(vgg_graph(SMALL16, scaled(), producer=producer, head=False), tmp_path / "m.onnx")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    runtime, stages = parity.compare(tmp_path / "m.onnx", lambda size: images)
    assert runtime.startswith("onnxruntime") and names(stages) == BLOCKS
    assert all(stage.good for stage in stages), stages


def test_onnx_graph_with_its_tensors_in_another_file(tmp_path):
    model = vgg_graph(SMALL16, scaled(), head=False)
    options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save(model, tmp_path / "m.onnx", **options)
    assert len((tmp_path / "m.onnx").read_bytes()) < len((tmp_path / "w.bin").read_bytes())
    _, stages = parity.compare(tmp_path / "m.onnx")
    assert names(stages) == BLOCKS and all(stage.good for stage in stages), stages
    (tmp_path / "w.bin").rename(tmp_path / "v.bin")
    (tmp_path / "w.bin").symlink_to(tmp_path / "v.bin")
    with pytest.raises(UserError, match=r"w\.bin"):
        parity.compare(tmp_path / "m.onnx")


def test_the_runtime_opens_no_other_file(tmp_path, monkeypatch):
    """A tensor that no layer of the VGG uses is not read by the import; the runtime must not read it either."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").write_bytes(bytes(4))
    outside = helper.make_tensor("outside", onnx.TensorProto.FLOAT, [1], bytes(4), raw=True)
    outside.ClearField("raw_data")
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value=str(tmp_path / "secret"))
    plain, hidden = vgg_graph(SMALL16, scaled(), head=False), vgg_graph(SMALL16, scaled(), head=False)
    plain.graph.initializer.append(outside)
    onnx.save(plain, tmp_path / "plain.onnx")
    with pytest.raises(UserError, match="Expected the name of a file beside the model"):
        parity.compare(tmp_path / "plain.onnx")
    result = helper.make_tensor_value_info("outside", onnx.TensorProto.FLOAT, [1])
    inner = helper.make_graph([], "inner", [], [result], [outside])
    hidden.graph.initializer.append(numpy_helper.from_array(np.array(True), "always"))
    node = helper.make_node("If", ["always"], ["unused"], then_branch=inner, else_branch=inner)
    hidden.graph.node.append(node)
    onnx.save(hidden, tmp_path / "hidden.onnx")
    with pytest.raises(UserError, match="has graphs inside its graph"):
        parity.compare(tmp_path / "hidden.onnx")


def test_weights_of_keras_3(tmp_path):
    """Laid out flat Keras loads them into its VGG; nested in another model it can't, and says so."""
    top = random_top(SMALL16, size=64)
    keras_network(scaled() | top, SMALL16, 64).save_weights(tmp_path / "flat.weights.h5")
    _, stages = parity.compare(tmp_path / "flat.weights.h5")
    assert names(stages) == [*BLOCKS, "fc1", "fc2", "probabilities"] and all(stage.good for stage in stages), stages
    nested = keras_network(scaled() | {"own": top["fc1"], "labels": top["predictions"]}, SMALL16, 64, nested=True)
    nested.save_weights(tmp_path / "nested.weights.h5")
    with pytest.raises(UserError, match="Keras can't load it into a VGG laid out flat"):
        parity.compare(tmp_path / "nested.weights.h5")
    (tmp_path / "flat.weights.h5").rename(tmp_path / "flat.h5")  # Keras goes by the name
    with pytest.raises(UserError, match="only from a name that ends so"):
        parity.compare(tmp_path / "flat.h5")


def test_layers_that_keras_passed_over_are_named(tmp_path):
    """By name, Keras fills what it finds and says nothing of the rest."""
    arrays = {f"vgg/{layer}": pair for layer, pair in scaled().items()}
    with pytest.raises(UserError, match="Keras finds no weights for block1_conv1 in it"):
        parity.compare(write_keras_h5(tmp_path / "w.h5", arrays))


@pytest.mark.parametrize("kind", ["torchvision", "timm", "bn", "safetensors"])
def test_torch_state(tmp_path, kind):
    pytest.importorskip("torch")
    state = torch_state(SMALL16, scaled(), random_top(SMALL16, size=64), side=2, timm=kind == "timm")
    if kind == "bn":
        state = with_norms(SMALL16, torch_state(SMALL16, scaled()), batch_norms(SMALL16))
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pth")
    if kind == "safetensors":
        safetensors.numpy.save_file(state, path)
    else:
        import torch

        torch.save({"state_dict": {f"module.{k}": torch.tensor(v) for k, v in state.items()}}, path)
    runtime, stages = parity.compare(path)
    assert runtime.startswith("PyTorch") and all(stage.good for stage in stages), stages
    assert names(stages) == BLOCKS + ([] if kind == "bn" else ["fc1", "fc2", "logits"])


def test_each_fault_is_told_by_its_kind(tmp_path, monkeypatch):
    path = write_keras_h5(tmp_path / "w.h5", scaled())
    published = runtimes.published
    monkeypatch.setattr(runtimes, "published", lambda plan, images: published(plan, images)[..., ::-1])
    _, stages = parity.compare(path)
    assert [stage.kind for stage in stages if not stage.good] == ["preprocessing"]
    monkeypatch.setattr(runtimes, "published", published)
    read = convert.Plan.read

    def wrong(self):
        params = read(self)
        params["block4_conv2"]["kernel"] = params["block4_conv2"]["kernel"][::-1]
        return params

    monkeypatch.setattr(convert.Plan, "read", wrong)
    _, stages = parity.compare(path)
    assert [stage.name for stage in stages if not stage.good] == ["block4", "block5"]


def test_a_missing_runtime_is_named(tmp_path, monkeypatch):
    import sys

    path = write_torch_zip(tmp_path / "w.pth", torch_state(SMALL16, scaled()))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UserError, match="PyTorch is missing, which runs this file: pip install torch"):
        parity.compare(path)


def test_a_lambda_is_not_built(tmp_path):
    import keras

    layers = keras.layers
    inner = [layers.Lambda(lambda x: x), keras_backbone(SMALL16, 64), layers.Flatten(), layers.Dense(2)]
    keras.Sequential([keras.Input((64, 64, 3)), *inner]).save(tmp_path / "m.keras")
    with pytest.raises(UserError, match="Lambda"):
        parity.compare(tmp_path / "m.keras")


def test_arrays_without_a_framework_have_no_runtime(tmp_path):
    np.savez(tmp_path / "w.npz", **{f"{k}/{p}": a for k, v in scaled().items() for p, a in zip("Wb", v, strict=True)})
    with pytest.raises(UserError, match="nothing here runs"):
        parity.compare(tmp_path / "w.npz")
