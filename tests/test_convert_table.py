"""Every dialect in every file it comes in: what inspect, import, verify and export do with it, as docs/weights.md says.

The table there is written by these tests from what happened, and compared with it otherwise:

    WRITE_TABLE=1 python -m pytest tests/test_convert_table.py
"""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper
from test_convert_files import (
    KERAS_NOISE,
    SPECS,
    assert_same,
    expected_backbone,
    keras_network,
    random_backbone,
    random_top,
    write_keras_h5,
)
from test_convert_formats import batch_norms, torch_state, with_norms, write_tfjs, write_torch_legacy, write_torch_zip
from test_convert_import_model import unnamed
from test_convert_onnx import vgg_graph
from test_hostile_fuzz import write_npy, write_npz, write_torch_script

from vgg_flax.answers import bundle
from vgg_flax.commands.convert import main
from vgg_flax.network import params
from vgg_flax.network.spec import BACKBONES, HeadSpec, ModelSpec, Preprocessing, dense_layers
from weights_convert import convert, mapping, readers, rules, tables

pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)
PAGE = Path(__file__).parents[1] / "docs" / "weights.md"
COMMAND = "WRITE_TABLE=1 python -m pytest tests/test_convert_table.py"
MARKERS = (f"<!-- table: {COMMAND} -->\n", "<!-- end of table -->\n")
TITLES = ("dialect", "file", "holds", "inspect", "import", "verify", "export")
TORCH = importlib.util.find_spec("torch") is not None
WIDTHS, SIZE, CLASSES = (4, 4, 5, 6, 6), 64, ("ant", "bee", "cat")
BGR = {"keras", "keras-numbered", "vggface", "onnx-keras", "machrisaa"}  # as their authors feed them
EXPORTS = {"keras": "keras", "keras-weights": "h5", "onnx": "onnx", "torchvision": "safetensors"}
EXPORTS |= {"safetensors": "safetensors"}


@dataclasses.dataclass(frozen=True)
class Network:
    """What a file is to hold: {layer: (kernel, bias)} of the backbone and of the dense layers, in order."""

    model: str
    convs: dict
    dense: dict

    @property
    def spec(self):
        return SPECS[self.model]

    @property
    def arrays(self):
        return self.convs | self.dense


def network(model, holds):
    """Values whose activations stay of one size, as a trained network's do."""
    spec = SPECS[model]
    scale = {layer: 0.3 * kernel[..., 0].size ** 0.5 for layer, (kernel, _) in random_backbone(spec).items()}
    convs = {layer: (k / np.float32(scale[layer]), 0.1 * b) for layer, (k, b) in random_backbone(spec).items()}
    top = {layer: (k / np.float32(len(k) ** 0.5), b) for layer, (k, b) in random_top(spec, size=SIZE).items()}
    own = {"hidden": top["fc1"], "labels": top["predictions"]}
    return Network(model, convs, {"no top": {}, "top": top, "own head": own}[holds])


def numbered(given):
    """The same arrays under the names that Keras gives to layers without one, in the order of the layers."""
    names = ["conv2d", *(f"conv2d_{i}" for i in range(1, len(given.convs)))]
    return dict(zip(names, given.convs.values(), strict=True)) | given.dense


def keras_h5(spelling):
    return lambda path, given: write_keras_h5(path, given.arrays, spelling)


def keras_saved(shape="flat", names=lambda given: given.arrays):
    """Written by Keras itself, with the layers in one chain or the backbone as a model in the model."""

    def write(path, given):
        network = keras_network(names(given), given.spec, SIZE, nested=shape == "nested")
        network.save_weights(path) if path.name.endswith(".weights.h5") else network.save(path)

    return write


def keras_inside(path, given):
    """With vgg16.preprocess_input traced into the graph."""
    import keras

    inputs = keras.Input((SIZE, SIZE, 3))
    network = keras_network(given.arrays, given.spec, SIZE)
    keras.Model(inputs, network(keras.applications.vgg16.preprocess_input(inputs))).save(path)


def keras_unnamed(shape):
    """As Keras before 3.7 and tf.keras 2.15 number the members of an archive, names and classes in another order."""

    def write(path, given):
        names = dict(zip(sorted(given.arrays, reverse=True), given.arrays.values(), strict=True))
        keras_network(names, given.spec, SIZE, nested=shape == "nested").save(path)
        unnamed(path)

    return write


def head_alone(path, given):
    """`bottleneck_fc_model.h5`, and beside it the folder with the convolutions that it was trained on."""
    import keras

    names = {"hidden": "relu", "labels": "softmax"}
    dense = [keras.layers.Dense(given.dense[name][1].size, kind, name=name) for name, kind in names.items()]
    head = keras.Sequential([keras.Input((2, 2, WIDTHS[-1])), keras.layers.Flatten(), *dense])
    for layer in dense:
        layer.set_weights(given.dense[layer.name])
    head.save(path)
    write_keras_h5(path.with_name("base.h5"), given.convs)


def vggface(path, given):
    names = {f"conv{name[5]}_{name[-1]}": pair for name, pair in given.convs.items()}
    write_keras_h5(path, names | given.dense)


def keras_npz(path, given):
    parts = ("kernel:0", "bias:0")
    np.savez(
        path, **{f"{k}/{part}": a for k, pair in given.arrays.items() for part, a in zip(parts, pair, strict=True)}
    )


def tfjs(path, given):
    """With the architecture, as the converter writes it."""
    write_tfjs(path, given.arrays)
    model = json.loads((path / "model.json").read_text())
    topology = {"model_config": json.loads(keras_network(given.arrays, given.spec, SIZE).to_json())}
    (path / "model.json").write_text(json.dumps(model | {"modelTopology": topology}))


def renamed(write):
    return lambda path, given: write(path, dataclasses.replace(given, convs=numbered(given), dense={}))


def onnx_graph(producer):
    def write(path, given):
        model = vgg_graph(given.spec, given.convs, producer=producer, head=False)
        for axis in (1, 2):
            model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = SIZE
        if given.dense:
            append_dense(model.graph, given.dense, by_channel=producer == "pytorch")
        onnx.save(model, path)

    return write


def append_dense(graph, dense, by_channel):
    """Flatten and the dense layers: row by row as tf2onnx has it, or channel by channel as torch."""
    value, last = graph.output[0].name, list(dense)[-1]
    if not by_channel:
        graph.node.append(helper.make_node("Transpose", [value], ["nhwc"], perm=[0, 2, 3, 1]))
        value = "nhwc"
    graph.node.append(helper.make_node("Flatten", [value], ["flat"]))
    value = "flat"
    for i, (name, (kernel, bias)) in enumerate(dense.items()):
        if by_channel and i == 0:
            kernel = kernel.reshape(2, 2, -1, len(bias)).transpose(2, 0, 1, 3).reshape(kernel.shape)
        kernel = np.ascontiguousarray(kernel.T if by_channel else kernel)
        graph.initializer.extend([numpy_helper.from_array(a, f"{name}/{p}") for p, a in (("w", kernel), ("b", bias))])
        inputs = [value, f"{name}/w", f"{name}/b"]
        graph.node.append(helper.make_node("Gemm", inputs, [f"{name}/sum"], transB=int(by_channel)))
        kind = "Softmax" if name == last else "Relu"
        graph.node.append(helper.make_node(kind, [f"{name}/sum"], [name]))
        value = name
    graph.output[0].CopyFrom(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))


def our_onnx(path, given):
    """Our own export."""
    with tempfile.TemporaryDirectory() as folder:
        bundle.save(ours("onnx-vgg_flax", given), Path(folder))
        assert run("export", folder, path, "--no-verify")[0] == 0


def torch_file(save, timm=False, rename=lambda name: name):
    def write(path, given):
        head = {"hidden", "labels"} & given.dense.keys()
        state = torch_state(given.spec, given.convs, None if head else given.dense, side=2, timm=timm)
        if head:
            (hidden, bias), (labels, last) = given.dense["hidden"], given.dense["labels"]
            rows = hidden.reshape(2, 2, -1, len(bias)).transpose(3, 2, 0, 1).reshape(len(bias), -1)
            state |= {"classifier.0.weight": np.ascontiguousarray(rows), "classifier.0.bias": bias}
            state |= {"classifier.3.weight": np.ascontiguousarray(labels.T), "classifier.3.bias": last}
        save(path, {rename(name): array for name, array in state.items()})

    return write


def sliced(match):
    """LPIPS cuts VGG behind the last ReLU of each block."""
    part = 1 + sum(int(match[1]) > end for end in (3, 8, 15, 22))
    return f"slice{part}.{match[1]}"


def torch_norms(path, given):
    write_torch_zip(path, with_norms(given.spec, torch_state(given.spec, given.convs), batch_norms(given.spec)))


def save_safetensors(path, state):
    safetensors.numpy.save_file(state, path)


def vgg_flax(path, given):
    part = {"fc1": "top", "hidden": "head"}.get(next(iter(given.dense), ""), "")
    parts = dict.fromkeys(given.convs, "backbone") | dict.fromkeys(given.dense, part)
    flat = {
        f"{parts[k]}/{k}/{p}": a for k, v in given.arrays.items() for p, a in zip(("kernel", "bias"), v, strict=True)
    }
    safetensors.numpy.save_file(flat, path)


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of file: its dialect, its name for people, the file's name, what it can hold, and how it is written."""

    dialect: str
    title: str
    name: str
    write: Callable
    holds: tuple[str, ...] = ("no top", "top", "own head")
    alone: bool = False

    def __str__(self):
        return f"{self.dialect}, {self.title}"


TOPS, NO_TOP, OWN = ("no top", "top"), ("no top",), ("own head",)
CASES = [
    *(
        Case("keras", f"weights `.h5`, {title}", "w.h5", keras_h5(spelling))
        for spelling, title in (
            ("keras1", "Keras 1"),
            ("official", "official"),
            ("keras2", "Keras 2"),
            ("keras3", "Keras 3"),
        )
    ),
    Case("keras", "whole model `.h5`, VGG flat", "m.h5", keras_saved()),
    Case("keras", "whole model `.h5`, VGG nested", "m.h5", keras_saved("nested"), OWN),
    Case("keras", "`.weights.h5`, VGG flat", "m.weights.h5", keras_saved()),
    Case("keras", "`.weights.h5`, VGG nested", "m.weights.h5", keras_saved("nested"), OWN),
    Case("keras", "`.keras`, VGG flat", "m.keras", keras_saved()),
    Case("keras", "`.keras`, VGG nested", "m.keras", keras_saved("nested"), OWN),
    Case("keras", "whole model `.h5`, `preprocess_input` inside", "m.h5", keras_inside, OWN),
    Case("keras", "`.keras`, `preprocess_input` inside", "m.keras", keras_inside, OWN),
    Case("keras", "`.keras` before Keras 3.7, VGG flat", "m.keras", keras_unnamed("flat"), OWN),
    Case("keras", "`.keras` before Keras 3.7, VGG nested", "m.keras", keras_unnamed("nested"), OWN),
    Case("keras", "a head alone, `.h5`, with `--backbone`", "m.h5", head_alone, OWN, alone=True),
    Case("keras", "`.npz` of Keras names", "w.npz", keras_npz),
    Case("keras", "tensorflow.js folder", "web", tfjs),
    Case("keras-numbered", "weights `.h5`", "w.h5", lambda path, given: write_keras_h5(path, numbered(given)), TOPS),
    Case("keras-numbered", "whole model `.h5`", "m.h5", keras_saved(names=numbered), OWN),
    Case("keras-numbered", "`.weights.h5`", "m.weights.h5", keras_saved(names=numbered), NO_TOP),
    Case("keras-numbered", "`.keras`", "m.keras", keras_saved(names=numbered), OWN),
    Case("keras-numbered", "`.npz`", "w.npz", renamed(keras_npz), NO_TOP),
    Case("keras-numbered", "tensorflow.js folder", "web", renamed(tfjs), NO_TOP),
    Case("vggface", "weights `.h5`, layers called conv1_1 to conv5_3", "w.h5", vggface, NO_TOP),
    Case("onnx-keras", "`.onnx`", "m.onnx", onnx_graph("tf2onnx"), ("no top", "own head")),
    Case("onnx-torch", "`.onnx`", "m.onnx", onnx_graph("pytorch"), ("no top", "own head")),
    Case("onnx-vgg_flax", "`.onnx`", "m.onnx", our_onnx, OWN),
    Case("torchvision", "`.pth`, zip", "w.pth", torch_file(write_torch_zip)),
    Case("torchvision", "`.pth`, before torch 1.6", "w.pth", torch_file(write_torch_legacy)),
    Case("torchvision", "TorchScript `.pt`", "w.pt", torch_file(write_torch_script), ("no top", "own head")),
    Case("torchvision", "safetensors", "w.safetensors", torch_file(save_safetensors)),
    Case("torchvision", "`.pth` of `vgg16_bn`, `vgg19_bn`", "w.pth", torch_norms, NO_TOP),
    *(
        Case(
            "torchvision",
            f"`.pth`, layers called `{shown}`",
            "w.pth",
            torch_file(write_torch_zip, rename=rename),
            names,
        )
        for shown, rename, names in (
            ("module.features.0", lambda name: f"module.{name}", ("no top", "own head")),
            ("features.module.0", lambda name: name.replace("features.", "features.module."), ("no top", "own head")),
            ("backbone.0", lambda name: name.replace("features.", "backbone."), NO_TOP),
            ("0", lambda name: name.replace("features.", ""), NO_TOP),
            ("slice1.0", lambda name: re.sub(r"features\.(\d+)", sliced, name), NO_TOP),
        )
    ),
    Case("timm", "`.pth`, zip", "w.pth", torch_file(write_torch_zip, timm=True), TOPS),
    Case("timm", "safetensors", "w.safetensors", torch_file(save_safetensors, timm=True), TOPS),
    Case("machrisaa", "`.npy`", "vgg.npy", lambda path, given: write_npy(path, given.arrays), TOPS),
    Case("frossard", "`.npz`", "vgg16_weights.npz", lambda path, given: write_npz(path, given.arrays), TOPS),
    Case("vgg_flax", "safetensors", "w.safetensors", vgg_flax),
]
RUNS = [(case, holds) for case in CASES for holds in case.holds]


def run(*args):
    """(exit code, standard output, the error's text without the path) of the command line, on small files."""
    out, errors, code = io.StringIO(), io.StringIO(), 0
    small, specs = mock.patch.object(mapping, "WIDTHS", WIDTHS), mock.patch.dict(BACKBONES, SPECS)
    with small, specs, contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        try:
            main([str(arg) for arg in args])
        except SystemExit as stop:
            code = stop.code
    text = errors.getvalue()
    assert (code == 2) == text.startswith("error: ") and text.count("\n") == (code == 2), text
    return code, out.getvalue(), re.sub(r"^error: (/\S+[: ] ?)?|\n$", "", text)


def refused(error):
    """The first sentence of an error."""
    return "refused: " + re.split(r"[.:] |\.$", error)[0].replace("|", "/")


@functools.cache
def outcome(case, holds, model):
    """The four cells; None for what needs torch where that is missing."""
    given = network(model, holds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / case.name
        case.write(path, given)
        return (
            inspected(path, case.dialect, model),
            imported(path, folder, case, given),
            verified(path),
            ", ".join(exported(case.dialect, model)) or "-",
        )


def inspected(path, dialect, model):
    code, out, error = run("inspect", path)
    if code:
        return refused(error)
    assert f"{path.name}: {model.upper()}" in out or path.is_dir()
    taken = re.search(r"^dialect (\S+): ", out, re.MULTILINE)
    return "yes" if taken[1] == dialect else f"yes, as {taken[1]}"


def imported(path, folder, case, given):
    """Bits against those that were written, through the folder that `import` makes."""
    expected = expected_backbone(given.convs) if case.dialect in BGR else as_stored(given.convs)
    if given.dense:
        recipe = (
            ["--preprocess", "bgr-caffe" if case.dialect in BGR else "rgb-torch"] if "inside" not in case.title else []
        )
        words = ["import", path, folder / "b", *recipe, "--classes", ",".join(CLASSES), "--model", given.model]
        words += ["--backbone", folder / "base.h5"] if case.alone else []
        code, _, error = run(*words)
        said = ""
        if "--head-activations" in error:
            said = " (`--head-activations`)"
            code, _, error = run(*words, "--head-activations", "relu")
        if code == 0:
            found = bundle.load(folder / "b").params
            assert_same(found["backbone"], expected)
            assert_same(found["head"], dict(zip(sorted(found["head"]), as_stored(given.dense).values(), strict=True)))
            return f"bit for bit, head included{said}"
    code, _, error = run("import", path, folder / "w")
    if code:
        return refused(error)
    found = bundle.load_backbone(folder / "w").params
    if case.write is torch_norms:
        assert_folded(found, given)
        return "yes, batch norms folded"
    assert_same(found, expected)
    return "bit for bit" + (", head left out" if given.dense else "")


def as_stored(arrays):
    return {layer: {"kernel": kernel, "bias": bias} for layer, (kernel, bias) in arrays.items()}


def assert_folded(found, given):
    """A batch norm behind each convolution, in double precision."""
    for (layer, (kernel, bias)), norm in zip(given.convs.items(), batch_norms(given.spec), strict=True):
        gamma, beta, mean, variance = (one.astype("f8") for one in norm)
        scale = gamma / np.sqrt(variance + 1e-5)
        np.testing.assert_allclose(found[layer]["kernel"], kernel * scale, rtol=1e-6)
        np.testing.assert_allclose(found[layer]["bias"], (bias - mean) * scale + beta, rtol=1e-5, atol=1e-6)


def verified(path):
    """The runtime and what it was compared in, of the table that is printed."""
    shown = []
    with mock.patch.object(tables, "stages", lambda *stages: shown.append(stages)):
        code, _, error = run("verify", path)
    if "PyTorch is missing" in error:
        return None
    if code == 2:
        return "no runtime here" if "nothing here runs" in error else refused(error)
    _, runtime, stages, _ = shown[0]
    if code:
        return "DIFFERS in " + ", ".join(stage.name for stage in stages if not stage.good)
    names = re.sub("block1, .*block5", "blocks", ", ".join(stage.name for stage in stages))
    return f"{runtime.split()[0]}: {names}"


@functools.cache
def exported(dialect, model):
    """Formats of ours that our reader takes for this dialect again, with the same bits."""
    given = network(model, "top")
    return [name for name, suffix in EXPORTS.items() if comes_back(dialect, given, name, suffix)]


def comes_back(dialect, given, name, suffix):
    model = ours(dialect, given)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle.save(model, folder / "run")
        path = folder / f"m.{suffix}"
        if run("export", folder / "run", path, "--format", name, "--no-verify")[0]:
            return False
        with readers.open_source(path) as source:
            if convert.plan(source, given.spec).dialect != dialect:
                return False
        options = ["--preprocess", "rgb-raw", "--classes", ",".join(CLASSES)] if name == "keras" else []
        assert run("import", path, folder / "w", *options)[0] == 0
        found = bundle.load_backbone(folder / "w")
    preprocessing = model.preprocessing
    statistics = np.allclose(found.preprocessing.mean, preprocessing.mean)
    statistics = statistics and np.allclose(found.preprocessing.std, preprocessing.std)
    return statistics and params.digest(found.params) == params.digest(model.params["backbone"])


def ours(dialect, given):
    """A model of ours with these values and the dialect's preprocessing."""
    table = rules.DIALECTS[dialect]
    hidden = tuple(bias.size for _, bias in given.dense.values())[:-1]
    spec = ModelSpec(given.spec, HeadSpec(3, (5,), ("flatten",), hidden, standardize=False), SIZE)
    names = [name for name, _ in dense_layers(spec.head)]
    head = dict(zip(names, as_stored(given.dense).values(), strict=True))
    arrays = {"backbone": as_stored(given.convs), "head": head}
    return bundle.Bundle(spec, arrays, CLASSES, Preprocessing(SIZE, table.mean, table.std))


def rows():
    """{(dialect, file): (holds, inspect, import, verify, export)}; None for a cell that needs torch where it is not."""
    found = {}
    for case in CASES:
        pairs = [tuple(outcome(case, holds, model) for model in SPECS) for holds in case.holds]
        cells = [together([(one[i], other[i]) for one, other in pairs]) for i in range(4)]
        found[case.dialect, case.title] = (" / ".join(case.holds), *cells)
    return found


def together(pairs):
    """One cell from [(of VGG16, of VGG19)] for what a file can hold, in that order; told once if always the same."""
    if any(None in pair for pair in pairs):
        return None
    texts = [one if one == other else f"VGG16 {one}, VGG19 {other}" for one, other in pairs]
    return texts[0] if len(set(texts)) == 1 else " / ".join(texts)


def markdown(found):
    """The table."""
    lines = ["| " + " | ".join(TITLES) + " |", "|---" * len(TITLES) + "|"]
    lines += ["| " + " | ".join((f"`{dialect}`", title, *cells)) + " |" for (dialect, title), cells in found.items()]
    return "\n".join(lines) + "\n"


def written():
    """The rows that docs/weights.md has."""
    lines = PAGE.read_text().partition(MARKERS[0])[2].partition(MARKERS[1])[0].splitlines()[2:]
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    return {(dialect.strip("`"), title): tuple(rest) for dialect, title, *rest in cells}


@pytest.mark.parametrize("model", SPECS)
@pytest.mark.parametrize(("case", "holds"), RUNS, ids=str)
def test_every_file_comes_in(case, holds, model):
    inspect, imported, verify, _ = outcome(case, holds, model)
    assert inspect.startswith("refused: has no convolutions" if case.alone else "yes")
    assert imported.startswith(("bit for bit", "yes, batch norms folded"))
    assert verify is None or "DIFFERS" not in verify


def test_the_page_says_what_happened():
    """Cells that need torch keep what the page says where torch is missing; see the next test."""
    found, page = rows(), written()
    if os.environ.get("WRITE_TABLE"):
        assert TORCH, "the table is written where torch is installed: pip install torch"
        start, _, rest = PAGE.read_text().partition(MARKERS[0])
        PAGE.write_text(start + MARKERS[0] + markdown(found) + MARKERS[1] + rest.partition(MARKERS[1])[2])
        return
    hint = f"docs/weights.md says otherwise. If what happened is right: {COMMAND}"
    assert list(page) == list(found), hint
    for key, cells in found.items():
        assert page[key] == tuple(old if new is None else new for old, new in zip(page[key], cells, strict=True)), hint


def test_no_cell_was_left_to_the_page():
    left = [key for key, cells in rows().items() if None in cells]
    if left:
        pytest.skip(f"torch is missing: {len(left)} cells of docs/weights.md were not run, verify of {left}")
    assert markdown(rows()) in PAGE.read_text()
