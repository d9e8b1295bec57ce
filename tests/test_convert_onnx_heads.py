"""A whole ONNX model comes in with its head, and then says what onnxruntime says."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_convert_export import make
from test_convert_files import SMALL16, random_backbone
from test_convert_onnx import vgg_graph

from vgg_flax.answers import bundle
from vgg_flax.answers.predictor import Predictor
from vgg_flax.errors import UserError
from weights_convert import convert, import_model, parity, readers, verify, writers

SIDE, CHANNELS = 2, 6  # of the last block's output for pictures of 64 pixels
FLAT = SIDE * SIDE * CHANNELS
rng = np.random.default_rng(4)


def normal(*shape, mean=0.0):
    return rng.normal(mean, 0.3, shape).astype("f4")


FLATTEN_HWC = [("Transpose", [], {"perm": [0, 2, 3, 1]}), ("Reshape", [np.array([-1, FLAT])], {})]
MEAN = [("ReduceMean", [], {"axes": [2, 3], "keepdims": 0})]
NORM = [normal(FLAT, mean=1), normal(FLAT), normal(FLAT), np.abs(normal(FLAT)) + 0.5]
# Each head as (operator, constants, attributes), as exporters write them.
HEADS = {
    "tf2onnx": [
        *FLATTEN_HWC,
        ("MatMul", [normal(FLAT, 7)], {}),
        ("Add", [normal(7)], {}),
        ("Relu", [], {}),
        ("Mul", [normal(7, mean=1)], {}),  # a batch norm, as tf2onnx folds it
        ("Add", [normal(7)], {}),
        ("MatMul", [normal(7, 3)], {}),
        ("Add", [normal(1, 3)], {}),
        ("Softmax", [], {"axis": -1}),
    ],
    "torch, channel by channel": [
        ("AveragePool", [], {"kernel_shape": [1, 1], "strides": [1, 1]}),
        ("Flatten", [], {"axis": 1}),
        ("Gemm", [normal(7, FLAT), normal(7)], {"transB": 1}),
        ("Relu", [], {}),
        ("Gemm", [normal(3, 7), normal(3)], {"transB": 1}),
    ],
    "torch, batch norm behind the flattening": [
        ("Flatten", [], {"axis": 1}),
        ("BatchNormalization", NORM, {"epsilon": 1e-3}),
        ("Gemm", [normal(3, FLAT), normal(3)], {"transB": 1}),
    ],
    "averages": [*MEAN, ("Dropout", [], {}), ("Gemm", [normal(CHANNELS, 3), normal(3)], {})],
    "maxima": [
        ("GlobalMaxPool", [], {}),
        ("Flatten", [], {}),
        ("Gemm", [normal(CHANNELS, 3), normal(3)], {}),
        ("Div", [np.array(1.7, "f4")], {}),
    ],
    "one sigmoid": [*MEAN, ("Gemm", [normal(CHANNELS, 1), normal(1)], {}), ("Sigmoid", [], {})],
}


def attach(model, head):
    """The graph with operators behind its last pool."""
    x = model.graph.output[0].name
    for i, (kind, constants, attributes) in enumerate(head):
        names = [f"c{i}_{k}" for k in range(len(constants))]
        model.graph.initializer.extend(map(numpy_helper.from_array, constants, names))
        model.graph.node.append(helper.make_node(kind, [x, *names], [f"y{i}"], **attributes))
        x = f"y{i}"
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, None))
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 64, 64, 3]))
    return model


def backbone():
    arrays = random_backbone(SMALL16)
    return {k: (kernel / (0.3 * kernel[..., 0].size ** 0.5), bias * 0.1) for k, (kernel, bias) in arrays.items()}


def imported(path, name):
    with readers.open_source(path) as source:
        plan = convert.plan(source, SMALL16)
        arrays, head = import_model.read(source, plan)
        how = import_model.preparation(name, head.image_size or 0, head)
        return import_model.make_bundle(plan, arrays, head, tuple("abc")[: head.spec.classes], how, {})


def probabilities(path, inputs):
    """What onnxruntime says."""
    out = np.asarray(onnxruntime.InferenceSession(path).run(None, {"input": inputs.astype("f4")})[0])
    if out.shape[1] == 1:
        return np.concatenate([1 - out, out], 1)
    return out if np.allclose(out.sum(1), 1) else np.exp(out) / np.exp(out).sum(1, keepdims=True)


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("producer", ["tf2onnx", "pytorch"])
def test_whole_graph_says_what_onnxruntime_says(tmp_path, kind, producer):
    path = tmp_path / "m.onnx"
    onnx.save(attach(vgg_graph(SMALL16, backbone(), producer=producer, head=False), HEADS[kind]), path)
    photos = verify.noise(64)
    expected = probabilities(path, photos[..., ::-1])
    assert np.ptp(expected, axis=0).max() > 1e-3, "the test photos must not all look alike to the model"
    found = Predictor(imported(path, "bgr-raw"), engine="xla").probabilities(photos)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def pooled_by_torch(side):
    """AdaptiveAvgPool2d(7) of a map, as torch.onnx of torch 2.13 writes it: (operator, inputs, attributes), where a
    number is the output of an earlier one. Gathers, a mask and sums; or a mean, where each place is of two by two."""
    ends = [(i * side // 7, -(-(i + 1) * side // 7)) for i in range(7)]
    index = np.array([[min(start + k, side - 1) for k in range(2)] for start, _ in ends])
    mask = np.array([[start + k >= end for k in range(2)] for start, end in ends])
    places = np.stack(np.broadcast_arrays(index[:, :, None, None], index), -1)
    nodes = [("Transpose", ["map"], {"perm": [2, 3, 0, 1]}), ("GatherND", [0, places], {})]
    nodes.append(("Transpose", [1], {"perm": [4, 5, 0, 1, 2, 3]}))
    if not mask.any():
        return [*nodes, ("ReduceMean", [2, np.array([-3, -1])], {"keepdims": 0})]
    zero, first, second = np.array(0, "f4"), np.array(0), np.array(1)
    nodes += [("Where", [mask, zero, 2], {}), ("Where", [mask[:, :, None, None], zero, 3], {})]
    nodes += [("Gather", [4, first], {"axis": 3}), ("Gather", [5, first], {"axis": 4})]
    nodes += [("Gather", [5, second], {"axis": 4}), ("Add", [6, 7], {}), ("Gather", [4, second], {"axis": 3})]
    nodes += [("Gather", [9, first], {"axis": 4}), ("Add", [8, 10], {}), ("Gather", [9, second], {"axis": 4})]
    counts = np.outer(*[(~mask).sum(1).astype("f4")] * 2)
    return [*nodes, ("Add", [11, 12], {}), ("Div", [13, counts], {})]


def pooled_graph(size, pool):
    """A VGG for pictures of `size` pixels, these operators behind its last pool, then dense layers of 7 x 7 places."""
    model = vgg_graph(SMALL16, backbone(), producer="pytorch", head=False)
    place = model.graph.output[0].name
    for i, (kind, inputs, attributes) in enumerate(pool):
        names = []
        for k, one in enumerate(inputs):
            names.append(place if isinstance(one, str) else f"pool{one}" if isinstance(one, int) else f"p{i}_{k}")
            if isinstance(one, np.ndarray):
                model.graph.initializer.append(numpy_helper.from_array(one, names[-1]))
        model.graph.node.append(helper.make_node(kind, names, [f"pool{i}"], **attributes))
    model.graph.output[0].name = f"pool{len(pool) - 1}"
    first = [normal(7, 49 * CHANNELS), normal(7)]
    dense = [("Reshape", [np.array([-1, 49 * CHANNELS])], {}), ("Gemm", first, {"transB": 1}), ("Relu", [], {})]
    attach(model, [*dense, ("Gemm", [normal(3, 7), normal(3)], {"transB": 1})])
    model.opset_import[0].version = 18
    shape = ["n", size, size, 3]
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("input", TensorProto.FLOAT, shape))
    return model


@pytest.mark.parametrize("size", [128, 256])
def test_the_adaptive_pool_of_torch_is_folded_into_the_first_dense_layer(tmp_path, size):
    path, photos = tmp_path / "m.onnx", verify.noise(size)
    onnx.save(pooled_graph(size, pooled_by_torch(size // 32)), path)
    expected = probabilities(path, photos[..., ::-1])
    assert np.ptp(expected, axis=0).max() > 1e-3
    bundle = imported(path, "bgr-raw")
    assert bundle.spec.image_size == size
    np.testing.assert_allclose(Predictor(bundle, engine="xla").probabilities(photos), expected, atol=1e-5)


def test_constants_beside_the_file_are_read_by_us_alone(tmp_path, monkeypatch):
    """ONNX's own library would look for them in the working folder."""
    folder = tmp_path / "other"
    folder.mkdir()
    monkeypatch.chdir(folder)
    model = pooled_graph(128, pooled_by_torch(4))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert imported(tmp_path / "m.onnx", "bgr-raw").spec.head.flat
    (tmp_path / "m.data").rename(folder / "m.data")
    with pytest.raises(UserError, match=r"lies in 'm\.data', which can't be opened"):
        imported(tmp_path / "m.onnx", "bgr-raw")


def test_axes_beside_the_file_are_read(tmp_path):
    model = vgg_graph(SMALL16, backbone(), head=False)
    model.opset_import[0].version = 18
    head = [("ReduceMean", [np.array([-2, -1])], {"keepdims": 0}), ("Gemm", [normal(CHANNELS, 3), normal(3)], {})]
    onnx.save(attach(model, head), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    assert imported(tmp_path / "m.onnx", "rgb-raw").spec.head.pools == ("average",)


def test_what_is_no_average_of_torch_is_refused(tmp_path):
    pool = pooled_by_torch(4)
    pool[-1] = ("Div", [13, np.full((7, 7), 2, "f4")], {})
    onnx.save(pooled_graph(128, pool), tmp_path / "m.onnx")
    with pytest.raises(UserError, match="operator Transpose head_1"):
        imported(tmp_path / "m.onnx", "bgr-raw")


def test_the_order_of_the_colours_as_tf2onnx_turns_it(tmp_path):
    """A thousand million is its word for the end of an axis, and every picture is among what is sliced."""
    model = attach(vgg_graph(SMALL16, backbone(), head=False), HEADS["averages"])
    far = 10**9
    numbers = {"start": [0, far], "end": [far, -far], "axes": [0, 3], "steps": [1, -1]}
    model.graph.initializer.extend(numpy_helper.from_array(np.array(v), k) for k, v in numbers.items())
    model.graph.node.insert(0, helper.make_node("Slice", ["input", *numbers], ["bgr"]))
    model.graph.node[1].input[0] = "bgr"
    onnx.save(model, tmp_path / "m.onnx")
    photos = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    found = Predictor(imported(tmp_path / "m.onnx", "rgb-raw"), engine="xla").probabilities(photos)
    np.testing.assert_allclose(found, probabilities(tmp_path / "m.onnx", photos), atol=1e-5)


def test_arithmetic_before_the_first_convolution_is_kept(tmp_path):
    model = attach(vgg_graph(SMALL16, backbone(), head=False), HEADS["averages"])
    before = [
        ("Sub", normal(3) + 100),
        ("Div", normal(1, 1, 1, 3) + 50),
        ("Mul", np.array(2, "f4")),
        ("Add", normal(3)),
    ]
    x = "input"
    for i, (kind, constant) in enumerate(before):
        model.graph.initializer.append(numpy_helper.from_array(constant, f"before{i}"))
        model.graph.node.insert(i, helper.make_node(kind, [x, f"before{i}"], [f"x{i}"]))
        x = f"x{i}"
    model.graph.node[len(before)].input[0] = x
    onnx.save(model, tmp_path / "m.onnx")
    photos = verify.noise(64)
    found = Predictor(imported(tmp_path / "m.onnx", "rgb-raw"), engine="xla").probabilities(photos)
    np.testing.assert_allclose(found, probabilities(tmp_path / "m.onnx", photos), atol=1e-5)


@pytest.mark.parametrize("head", ["notebook", "one average", "one maximum"])
def test_our_own_export_comes_back(tmp_path, head):
    ours = make(head, mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 40.0))
    writers.write(ours, tmp_path / "m.onnx", "onnx")
    photos = verify.noise(64)
    found = Predictor(imported(tmp_path / "m.onnx", "rgb-raw"), engine="xla").probabilities(photos)
    np.testing.assert_allclose(found, Predictor(ours, engine="xla").probabilities(photos), atol=1e-5)
    with readers.open_source(tmp_path / "m.onnx") as source:
        plan = convert.plan(source, SMALL16)
    assert (plan.dialect, plan.mean, plan.std) == ("onnx-vgg_flax", ours.preprocessing.mean, ours.preprocessing.std)


REFUSED = {
    "an unknown operator": (
        [*MEAN, ("Tanh", [], {}), *HEADS["averages"][2:]],
        "operator Tanh head_2",
    ),
    "a factor": (
        [*MEAN, ("Gemm", [normal(CHANNELS, 3)], {"alpha": 2.0})],
        "operator Gemm head_2",
    ),
    "a constant minus": (
        [*MEAN, ("Gemm", [normal(CHANNELS, 3)], {}), ("Sub", [], {}), ("Relu", [], {})],
        "operator Sub head_3",
    ),
    "another axis": (
        [*HEADS["averages"], ("Softmax", [], {"axis": 0})],
        "operator Softmax head_3",
    ),
    "a mean over channels": (
        [("ReduceMean", [], {"axes": [1]}), *HEADS["averages"][2:]],
        "operator ReduceMean head_1",
    ),
    "no head": ([], "has no dense layers behind its backbone"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_carried_over_is_named(tmp_path, kind):
    head, message = REFUSED[kind]
    onnx.save(attach(vgg_graph(SMALL16, backbone(), head=False), head), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=message):
        imported(tmp_path / "m.onnx", "rgb-raw")


def test_verify_compares_the_head_too(tmp_path, monkeypatch):
    plan = convert.plan
    monkeypatch.setattr(convert, "plan", lambda source, *_, **__: plan(source, SMALL16))
    onnx.save(attach(vgg_graph(SMALL16, backbone(), head=False), HEADS["tf2onnx"]), tmp_path / "m.onnx")
    _, stages = parity.compare(tmp_path / "m.onnx")
    assert [stage.name for stage in stages] == [*(f"block{i}" for i in range(1, 6)), "fc1", "logits"]
    assert all(stage.good for stage in stages), stages


def test_command_line(tmp_path, monkeypatch):
    from vgg_flax.commands.convert import main

    plan = convert.plan
    monkeypatch.setattr(convert, "plan", lambda source, *_, **__: plan(source, SMALL16))
    onnx.save(attach(vgg_graph(SMALL16, backbone(), head=False), HEADS["averages"]), tmp_path / "m.onnx")
    main(["import", str(tmp_path / "m.onnx"), str(tmp_path / "b"), "--preprocess", "rgb-unit", "--classes", "a,b,c"])
    assert bundle.load(tmp_path / "b").spec.head.pools == ("average",)


def test_a_whole_model_replaces_an_earlier_import_and_nothing_else(tmp_path, monkeypatch, capsys):
    from vgg_flax.commands.convert import main

    plan = convert.plan
    monkeypatch.setattr(convert, "plan", lambda source, *_, **__: plan(source, SMALL16))
    onnx.save(attach(vgg_graph(SMALL16, backbone(), head=False), HEADS["averages"]), tmp_path / "m.onnx")
    how = ["--preprocess", "rgb-unit", "--classes", "a,b,c", "--overwrite"]
    for _ in range(2):
        main(["import", str(tmp_path / "m.onnx"), str(tmp_path / "b"), *how])
    (tmp_path / "b" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place, why in (("b", "notes.txt and is not replaced"), ("file/b", "can't be written: ")):
        with pytest.raises(SystemExit, match="2"):
            main(["import", str(tmp_path / "m.onnx"), str(tmp_path / place), *how])
        errors = capsys.readouterr().err
        assert errors.count("\n") == 1 and why in errors
    assert bundle.load(tmp_path / "b").classes == ("a", "b", "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "file", "m.onnx"]
