"""Damaged files of every format end in our own error, or in a complete and finite network; never in anything else.

Bits inside a tensor carry no check in most formats, so a changed value may pass; a wrong shape, a missing tensor, a
foreign exception, a crash or a hang may not. `FUZZ_CASES` sets the number of cases a format.
"""

import copy
import dataclasses
import json
import os
import pickle
import tempfile
import zipfile
from pathlib import Path

import h5py
import numpy as np
import onnx
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_convert_files import SMALL16, conv_shapes, expected_backbone, random_backbone, write_keras_h5
from test_convert_formats import (
    batch_norms,
    caffe_name,
    torch_pickle,
    torch_state,
    with_norms,
    write_torch_legacy,
    write_torch_zip,
)
from test_convert_onnx import vgg_graph
from test_convert_onnx_heads import pooled_by_torch, pooled_graph

import weights_convert
from vgg_flax.errors import UserError
from vgg_flax.network.params import flatten
from vgg_flax.network.spec import Preprocessing
from weights_convert import convert, import_model, join, optimiser, readers
from weights_convert.fold_head import Settings
from weights_convert.types import Weights

CASES = int(os.environ.get("FUZZ_CASES", "60"))
MOMENTS = np.arange(1, 25, dtype="f4").reshape(8, 3)  # an optimiser's, of a dense kernel


def write_keras3(path, arrays):
    with h5py.File(path, "w") as file:
        for i, (layer, pair) in enumerate(arrays.items()):
            group = file.create_group(f"layers/conv2d_{i}/vars")
            group.attrs["name"] = layer
            for k, array in enumerate(pair):
                group[str(k)] = array
        file["optimizer/vars/2"] = MOMENTS


def write_packed(path, arrays):
    write_keras_h5(path, {})
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(list(arrays), "S")
        for layer, (kernel, bias) in arrays.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = np.array(["kernel:0", "bias:0"], "S")
            options = {"chunks": (3, 3, 3, 4), "compression": "gzip", "shuffle": True}
            group.create_dataset("kernel:0", data=kernel, **options)
            group["bias:0"] = bias
        file.create_dataset("optimizer_weights/adam/velocity", data=MOMENTS, chunks=(4, 3), compression="gzip")


def write_keras_archive(path, arrays):
    write_keras3(path.with_suffix(".inner"), arrays)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.write(path.with_suffix(".inner"), "model.weights.h5")


def write_npy(path, arrays):
    thing = {caffe_name(layer): list(pair) for layer, pair in arrays.items()}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(np.array(thing, dtype=object), file, protocol=2)


def write_npz(path, arrays):
    flat = {f"{caffe_name(k)}_{part}": a for k, v in arrays.items() for part, a in zip("Wb", v, strict=True)}
    with path.open("wb") as file:
        np.savez(file, **flat)


def write_torch_head(path, arrays):
    rng = np.random.default_rng(3)
    state = with_norms(SMALL16, torch_state(SMALL16, arrays), batch_norms(SMALL16))
    shapes = {"0.weight": (9, 24), "0.bias": (9,), "1.weight": (9,), "1.bias": (9,), "1.running_mean": (9,)}
    shapes |= {"1.running_var": (9,), "4.weight": (3, 9), "4.bias": (3,)}
    state |= {f"classifier.{name}": rng.uniform(0.5, 1, shape).astype("f4") for name, shape in shapes.items()}
    write_torch_zip(path, state)


def write_torch_script(path, state):
    """What torch.jit.save writes, its modules in one."""
    data, storages = torch_pickle(state)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02c__torch__.vgg\nV\n)\x81" + data[2:-1] + b"b.")
        for i, storage in enumerate(storages):
            archive.writestr(f"w/data/{i}", storage)


def write_whole_archive(path, arrays):
    write_keras3(path.with_suffix(".inner"), whole_arrays())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(whole_config()))
        archive.write(path.with_suffix(".inner"), "model.weights.h5")


WRITERS = {
    "torch with a head": write_torch_head,
    "keras archive, whole": write_whole_archive,
    "keras h5": write_keras_h5,
    "keras packed h5": write_packed,
    "keras 3 h5": write_keras3,
    "keras archive": write_keras_archive,
    "onnx": lambda path, arrays: onnx.save(vgg_graph(SMALL16, arrays), path),
    "onnx of torch with its pool": lambda path, arrays: onnx.save(pooled_graph(128, pooled_by_torch(4)), path),
    "safetensors": lambda path, arrays: safetensors.numpy.save_file(torch_state(SMALL16, arrays), path),
    "torch": lambda path, arrays: write_torch_zip(path, torch_state(SMALL16, arrays)),
    "torch script": lambda path, arrays: write_torch_script(path, torch_state(SMALL16, arrays)),
    "torch before 1.6": lambda path, arrays: write_torch_legacy(path, torch_state(SMALL16, arrays)),
    "npy": write_npy,
    "npz": write_npz,
}


class Quiet(bytes):
    """Bytes that don't fill the screen when a test fails."""

    def __repr__(self):
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """{format: bytes of a file that loads}."""
    files: dict[str, Quiet] = {}
    for name, write in WRITERS.items():
        path = tmp_path_factory.mktemp("good") / "w.bin"
        write(path, random_backbone(SMALL16))
        load(path)
        files[name] = Quiet(path.read_bytes())
    return files


def load(path):
    return weights_convert.load(str(path), SMALL16, say=[].append).backbone


def check(data, whole=None):
    """Our error, or a complete network; for a cut file, the very same network as `whole`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.bin"
        path.write_bytes(data)
        try:
            found = load(path)
            with readers.open_source(path) as source:
                moments = optimiser.second_moments(source, MOMENTS.shape)
                plan = convert.plan(source, SMALL16)
                if plan.dense:
                    import_model.read(source, plan, Settings(head_activations=None if source.whole else "relu"))
        except UserError as error:
            assert "\n" not in str(error)
            return
        assert moments is None or (moments.shape == (8,) and np.isfinite(moments).all())
        for layer, shape in conv_shapes(SMALL16):
            kernel, bias = found[layer]["kernel"], found[layer]["bias"]
            assert kernel.shape == shape and bias.shape == shape[3:]
            assert np.isfinite(kernel).all() and np.isfinite(bias).all()
            if whole is not None:
                np.testing.assert_array_equal(kernel, whole[layer]["kernel"])
                np.testing.assert_array_equal(bias, whole[layer]["bias"])


position = st.floats(0, 1, exclude_max=True)
edit = st.one_of(
    st.tuples(st.just("flip"), position, st.integers(0, 7)),
    st.tuples(st.just("cut"), position, st.just(0)),
    st.tuples(st.just("insert"), position, st.binary(min_size=1, max_size=9)),
    st.tuples(
        st.just("set"), position, st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\x7f", b"\x80", b"\xff\xff\xff\x7f"])
    ),
    st.tuples(st.just("remove"), position, st.integers(1, 64)),
    st.tuples(st.just("move"), position, position),
)


def apply(data, edits, window):
    """Edits fall into the first `window` bytes or, counted from the end, the last."""
    data = bytearray(data)
    for kind, where, what in edits:
        span = min(window, len(data))
        place = int(where * 2 * span)
        place = place if place < span else len(data) - (2 * span - place)
        place = min(max(place, 0), len(data) - 1)
        if kind == "flip":
            data[place] ^= 1 << what
        elif kind == "cut":
            del data[place:]
        elif kind == "insert":
            data[place:place] = what
        elif kind == "set":
            data[place : place + len(what)] = what
        elif kind == "remove":
            del data[place : place + what]
        else:
            other = int(what * len(data))
            data[place : place + 8], data[other : other + 8] = data[other : other + 8], data[place : place + 8]
        if not data:
            return b""
    return bytes(data)


@pytest.mark.parametrize("name", WRITERS)
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(edits=st.lists(edit, min_size=1, max_size=4), window=st.sampled_from([512, 4096, 10**6]))
@example(edits=[("cut", 0.999, 0)], window=10**6)
def test_mutations(good, name, edits, window):
    check(apply(good[name], edits, window))


@pytest.mark.parametrize("name", WRITERS)
def test_every_truncation(good, name, tmp_path):
    """Cut at 64 places and around every change of the first bytes: refused, or nothing of the network was lost."""
    data = good[name]
    (tmp_path / "whole").write_bytes(data)
    whole = load(tmp_path / "whole")
    for length in sorted({*range(1, 40), *(len(data) * i // 64 for i in range(64)), *range(len(data) - 24, len(data))}):
        check(data[:length], whole)


def whole_config():
    """Of a model with everything that is read from an architecture, small as Keras 3 and tf.keras write it."""

    def layer(kind, name, *reads, args=(), **config):
        tensors = [{"class_name": "__keras_tensor__", "config": {"keras_history": [one, 0, 0]}} for one in reads]
        nodes = [{"args": [*(tensors if kind != "Stack" else [tensors]), *args], "kwargs": {}}] if reads else []
        return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": nodes}

    layers = [layer("InputLayer", "images", batch_shape=[None, 32, 32, 3])]
    ellipsis = {"class_name": "__ellipsis__", "config": {}}
    layers += [layer("GetItem", f"c{i}", "images", args=[[ellipsis, i]]) for i in (2, 1, 0)]
    constant = {"class_name": "__tensor__", "config": {"value": [[[[-103.9, -116.8, -123.7]]]]}}
    layers += [layer("Stack", "stack", "c2", "c1", "c0", axis=-1), layer("Add", "add", "stack", args=[constant])]
    before = "add"
    for i, block in enumerate(SMALL16.blocks, 1):
        for j in range(1, len(block) + 1):
            name, relu = f"block{i}_conv{j}", "linear" if (i, j) == (1, 1) else "relu"
            options = {"padding": "same", "strides": [1, 1], "activation": relu, "use_bias": True}
            layers.append(layer("Conv2D", name, before, kernel_size=[3, 3], filters=block[0], **options))
            before = name
            if relu == "linear":
                layers += [
                    layer("BatchNormalization", "norm", name, axis=-1, epsilon=1e-3),
                    layer("ReLU", "relu", "norm"),
                ]
                before = "relu"
        options = {"pool_size": [2, 2], "strides": [2, 2], "padding": "valid"}
        layers.append(layer("MaxPooling2D", f"block{i}_pool", before, **options))
        before = f"block{i}_pool"
    head = [("Flatten", {}), ("Dense", {"units": 5, "activation": "relu"}), ("BatchNormalization", {"epsilon": 1e-3})]
    for i, (kind, config) in enumerate([*head, ("Dropout", {"rate": 0.5}), ("Dense", {"units": 2})]):
        layers.append(layer(kind, f"head{i}", before, **config))
        before = f"head{i}"
    return {"class_name": "Functional", "config": {"layers": layers, "output_layers": [[before, 0, 0]]}}


def whole_arrays():
    rng = np.random.default_rng(2)
    norms = {name: tuple(rng.uniform(0.5, 1, (4, n)).astype("f4")) for name, n in (("norm", 4), ("head2", 5))}
    dense = {"head1": (6, 5), "head4": (5, 2)}
    heads = {k: (rng.normal(size=s).astype("f4"), rng.normal(size=s[1]).astype("f4")) for k, s in dense.items()}
    return random_backbone(SMALL16) | norms | heads


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The weights of a whole model as Keras 3 writes them."""
    path = tmp_path_factory.mktemp("whole") / "w.weights.h5"
    write_keras3(path, whole_arrays())
    check_whole(path, whole_config())
    return path


def check_whole(path, config):
    """A complete and finite model, or our error; the first convolution's input is one of 3 colours."""
    with readers.open_source(path) as source:
        source = dataclasses.replace(source, config=config)
        plan = convert.plan(source, SMALL16)
        backbone, head = import_model.read(source, plan, Settings(preprocess="bgr-caffe"))
        how = import_model.preparation("rgb-raw", head.image_size or 32, head)
        bundle = import_model.make_bundle(plan, backbone, head, ("a", "b"), how, {})
        for array in flatten(bundle.params).values():
            assert np.isfinite(array).all()


def alone_config():
    """Of a head alone, as the Keras blog's: what Keras 2 writes."""
    layers = [("Flatten", {"batch_input_shape": [None, 1, 1, 6]}), ("Dense", {"units": 5, "activation": "relu"})]
    layers.append(("Dense", {"units": 1, "activation": "sigmoid", "use_bias": True}))
    layers = [{"class_name": kind, "config": {"name": f"h{i}", **own}} for i, (kind, own) in enumerate(layers)]
    return {"class_name": "Sequential", "config": {"name": "sequential", "layers": layers}}


def write_alone(path, config):
    rng = np.random.default_rng(2)
    dense = {f"h{i}": (rng.normal(size=s).astype("f4"), np.ones(s[1], "f4")) for i, s in ((1, (6, 5)), (2, (5, 1)))}
    write_keras_h5(path, dense, where="model_weights")
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)


def check_alone(path):
    with readers.open_source(path) as source:
        under = Weights(expected_backbone(random_backbone(SMALL16)), Preprocessing(224), "imagenet")
        plan = convert.plan(join.join(source, under), SMALL16)
        backbone, head = import_model.read(source, plan, Settings())
        how = import_model.preparation("rgb-unit", head.image_size or 32, head)
        bundle = import_model.make_bundle(plan, backbone, head, ("a", "b"), how, {})
        assert all(np.isfinite(array).all() for array in flatten(bundle.params).values())


@settings(max_examples=10 * CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(edits=st.lists(edit, min_size=1, max_size=3), places=st.lists(st.tuples(position, position), max_size=2))
def test_a_damaged_head_alone(tmp_path_factory, edits, places):
    """Its file damaged, and its architecture: our own error, or a complete model."""
    path = tmp_path_factory.getbasetemp() / "head.h5"
    config = alone_config()
    for where, what in places:
        change(config, where, ODD[int(what * len(ODD))])
    write_alone(path, config)
    if not places:
        path.write_bytes(apply(path.read_bytes(), edits, 4096))
    try:
        check_alone(path)
    except UserError as error:
        assert "\n" not in str(error)


def test_the_head_alone_is_good_before(tmp_path):
    write_alone(tmp_path / "head.h5", alone_config())
    with readers.open_source(tmp_path / "head.h5") as source:
        assert source.whole
    check_alone(tmp_path / "head.h5")


def change(config, where, what):
    """Replace one value of nested dicts and lists by another."""
    places, stack = [], [config]
    while stack:
        node = stack.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        places += [(node, key) for key in keys]
        stack += [node[key] for key in keys]
    if places:
        node, key = places[int(where * len(places))]
        node[key] = copy.deepcopy(what)  # or else it may hold itself


ODD = [None, True, 0, -1, 3, 2**40, 1e308, float("nan"), "", "x", "relu", "softmax", "Lambda", "TFOpLambda", "Resizing"]
ODD += [[], {}, [1, 2, 3], [[0, 1], [1, 0]], {"class_name": "__slice__", "config": {"start": 0, "stop": 1, "step": 0}}]
ODD += [["images", 0, 0], {"class_name": "__keras_tensor__", "config": {"keras_history": ["head4", 0, 9]}}]


@settings(max_examples=10 * CASES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(edits=st.lists(st.tuples(position, st.sampled_from(ODD)), min_size=1, max_size=3))
def test_changed_architectures(whole, edits):
    """Any value of the architecture replaced by another: our own error, or a complete model."""
    config = whole_config()
    for where, what in edits:
        change(config, where, what)
    try:
        check_whole(whole, config)
    except UserError as error:
        assert "\n" not in str(error)
