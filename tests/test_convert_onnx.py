"""ONNX graphs come in by their structure, whatever names and layouts the exporter chose."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_convert_files import SMALL16, SPECS, assert_same, expected_backbone, random_backbone

import weights_convert
from vgg_flax.errors import UserError


def load(path, spec=SMALL16):
    return weights_convert.load(str(path), spec, say=[].append)


def vgg_graph(spec, arrays, *, separate_bias=False, extra=None, producer="tf2onnx", head=True):
    """A VGG as tf2onnx writes it: NHWC input, one Transpose, kernels OIHW under long names.

    Args:
      separate_bias: Conv without a bias, followed by Add, as other exporters do.
      extra: (operator, after which convolution): puts a foreign operator into the chain.
    """
    nodes = [helper.make_node("Transpose", ["input"], ["x"], perm=[0, 3, 1, 2])]
    initialisers, x = [], "x"

    def constant(name, array):
        initialisers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    k = 0
    for i, block in enumerate(spec.blocks, 1):
        for j in range(1, len(block) + 1):
            layer = f"block{i}_conv{j}"
            kernel, bias = arrays[layer]
            where = f"functional_1/{layer}_1"
            w = constant(f"{where}/convolution/ReadVariableOp:0", kernel.transpose(3, 2, 0, 1))
            if separate_bias:
                b = constant(f"{where}/Reshape:0", bias.reshape(1, -1, 1, 1))
                nodes.append(helper.make_node("Conv", [x, w], [f"{layer}/conv"], pads=[1] * 4))
                nodes.append(helper.make_node("Add", [f"{layer}/conv", b], [f"{layer}/out"]))
            else:
                b = constant(f"{where}/Squeeze:0", bias)
                nodes.append(helper.make_node("Conv", [x, w, b], [f"{layer}/out"], pads=[1] * 4))
            nodes.append(helper.make_node("Relu", [f"{layer}/out"], [f"{layer}/relu"]))
            x = f"{layer}/relu"
            if extra and extra[1] == k:
                nodes.append(helper.make_node(extra[0], [x], [f"{layer}/extra"]))
                x = f"{layer}/extra"
            k += 1
        pool = f"block{i}/pool"
        nodes.append(helper.make_node("MaxPool", [x], [pool], kernel_shape=[2, 2], strides=[2, 2]))
        x = pool
    if head:
        nodes.append(helper.make_node("Transpose", [x], ["nhwc"], perm=[0, 2, 3, 1]))
        nodes.append(helper.make_node("Flatten", ["nhwc"], ["flat"]))
        kernel = constant("dense/Cast/ReadVariableOp:0", np.ones((6, 2), "f4"))
        nodes.append(helper.make_node("MatMul", ["flat", kernel], ["product"]))
        nodes.append(helper.make_node("Add", ["product", constant("dense/b:0", np.ones(2, "f4"))], ["logits"]))
        x = "logits"
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 32, 32, 3])
    result = helper.make_tensor_value_info(x, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "vgg", [image], [result], initialisers)
    opset = [helper.make_opsetid("", 13)]
    return helper.make_model(graph, producer_name=producer, opset_imports=opset, ir_version=8)


@pytest.mark.parametrize("model", ["vgg16", "vgg19"])
def test_tf2onnx_graph_comes_in_bit_for_bit(tmp_path, model):
    arrays = random_backbone(SPECS[model])
    onnx.save(vgg_graph(SPECS[model], arrays), tmp_path / "m.onnx")
    weights = load(tmp_path / "m.onnx", SPECS[model])
    assert_same(weights.backbone, expected_backbone(arrays))
    assert weights.preprocessing.mean == (123.68, 116.779, 103.939)


def test_bias_in_an_operator_of_its_own(tmp_path):
    arrays = random_backbone(SMALL16)
    onnx.save(vgg_graph(SMALL16, arrays, separate_bias=True), tmp_path / "m.onnx")
    assert_same(load(tmp_path / "m.onnx").backbone, expected_backbone(arrays))


def test_torch_exports_are_rgb_with_torchvisions_statistics(tmp_path):
    arrays = random_backbone(SMALL16)
    onnx.save(vgg_graph(SMALL16, arrays, producer="pytorch"), tmp_path / "m.onnx")
    weights = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(weights.backbone["block1_conv1"]["kernel"], arrays["block1_conv1"][0])
    np.testing.assert_allclose(np.divide(weights.preprocessing.std, 255), (0.229, 0.224, 0.225))


def test_imported_graph_computes_what_onnxruntime_computes(tmp_path):
    import jax
    import onnxruntime as runtime

    from vgg_flax.network.model import bind_backbone
    from vgg_flax.network.preprocess import normalize

    onnx.save(vgg_graph(SMALL16, random_backbone(SMALL16), head=False), tmp_path / "m.onnx")
    weights = load(tmp_path / "m.onnx")
    photos = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("f4")
    bgr = photos[..., ::-1] - np.array([103.939, 116.779, 123.68], "f4")
    (expected,) = runtime.InferenceSession(tmp_path / "m.onnx").run(None, {"input": bgr})
    with jax.default_matmul_precision("float32"):
        images = normalize(photos, weights.preprocessing)
        blocks = bind_backbone(SMALL16, "float32", weights.backbone)(images)
    found = np.asarray(blocks["block5"]).transpose(0, 3, 1, 2)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("operator", ["Sigmoid", "Neg", "Tanh"])
def test_a_foreign_operator_in_the_chain_is_no_vgg(tmp_path, operator):
    onnx.save(vgg_graph(SMALL16, random_backbone(SMALL16), extra=(operator, 5)), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r" layer_15 is no layer of a VGG backbone: .*vgg-flax train --data FOLDER"):
        load(tmp_path / "m.onnx")


@pytest.mark.parametrize("operator", ["Relu", "Identity"])
def test_an_operator_that_changes_nothing_does_no_harm(tmp_path, operator):
    arrays = random_backbone(SMALL16)
    onnx.save(vgg_graph(SMALL16, arrays, extra=(operator, 5)), tmp_path / "m.onnx")
    assert_same(load(tmp_path / "m.onnx").backbone, expected_backbone(arrays))


def test_a_strided_convolution_is_no_vgg(tmp_path):
    model = vgg_graph(SMALL16, random_backbone(SMALL16))
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    conv.attribute.append(helper.make_attribute("strides", [2, 2]))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UserError, match="Conv2D layer_1 is no layer of a VGG backbone"):
        load(tmp_path / "m.onnx")


def test_a_pool_in_the_wrong_place_is_no_vgg(tmp_path):
    # The same 13 convolutions in blocks of 2, 3, 2, 3, 3: shapes alone could not tell where equal widths meet.
    spec = type(SMALL16)("odd", ((4,) * 2, (4,) * 3, (4,) * 2, (4,) * 3, (4,) * 3))
    onnx.save(vgg_graph(spec, random_backbone(spec)), tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"blocks have 2, 3, 2, 3, 3 convolutions"):
        load(tmp_path / "m.onnx", type(SMALL16)("vgg16", ((4,) * 2, (4,) * 2, (4,) * 3, (4,) * 3, (4,) * 3)))


def test_weights_shared_by_two_layers_are_refused(tmp_path):
    model = vgg_graph(SMALL16, random_backbone(SMALL16))
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    convs[2].input[1] = convs[3].input[1]
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(UserError, match="serves two layers"):
        load(tmp_path / "m.onnx")


def test_external_data_beside_the_model_is_read(tmp_path):
    arrays = random_backbone(SMALL16)
    onnx.save(
        vgg_graph(SMALL16, arrays),
        tmp_path / "m.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    assert (tmp_path / "weights.bin").is_file()
    assert_same(load(tmp_path / "m.onnx").backbone, expected_backbone(arrays))
