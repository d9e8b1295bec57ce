"""The files that people bring, written by their frameworks: what becomes of each kind, as docs/weights.md says.

The table there is written by these tests from what they measured, and compared with it otherwise:

    WRITE_TABLE=1 python -m pytest tests/test_convert_kinds.py
"""

import dataclasses
import functools
import importlib.util
import math
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import keras
import numpy as np
import onnx
import pytest
import test_convert_alone as alone
import test_convert_evidence as evidence
import test_convert_import_model as whole
import test_convert_inside as inside
import test_convert_onnx_heads as graphs
import test_convert_table as table
from test_convert_files import (
    KERAS_NOISE,
    SMALL16,
    SPECS,
    keras_backbone,
    keras_network,
    random_backbone,
    random_top,
    write_keras_h5,
)
from test_convert_formats import torch_state, write_torch_zip
from test_convert_onnx import vgg_graph

from vgg_flax.answers import bundle
from vgg_flax.answers.predictor import Predictor
from vgg_flax.network.model import bind_backbone
from vgg_flax.network.spec import BackboneSpec

TORCH = importlib.util.find_spec("torch") is not None
if TORCH:
    import test_convert_torch as torches
    import torch
pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE, "ignore:.*torch.jit:DeprecationWarning")
layers = keras.layers
PAGE = Path(__file__).parents[1] / "docs" / "weights.md"
COMMAND = "WRITE_TABLE=1 python -m pytest tests/test_convert_kinds.py"
MODES = ("vgg16.preprocess_input", "imagenet_utils, torch", "imagenet_utils, tf")
LAYERS = ("rescaling and adapted normalization", "normalization in two", "batch norm of pixels", "augmentation between")
MARKERS = (f"<!-- kinds: {COMMAND} -->\n", "<!-- end of kinds -->\n")
TITLES = ("kind of file", "asks for", "comes in", "largest difference")
SIZE, WIDE = 64, evidence.WIDE
PHOTOS = graphs.verify.noise(SIZE)
CAFFE, RAW, UNIT, TORCHS = ((f"--preprocess {name}",) for name in ("bgr-caffe", "bgr-raw", "rgb-unit", "rgb-torch"))


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
    """Files of one kind.

    Each of `writes` takes the file's path and gives what its framework says of the eight pictures: probabilities, block
    5's maps of a file with `backbone`, or nothing where the file is refused with `step` among what to type. `options`
    are typed once they are asked for, `said` always.
    """

    title: str
    name: str
    writes: tuple[Callable[[Path], np.ndarray | None], ...]
    options: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    step: str = ""
    backbone: bool = False
    limit: float = 1e-5
    size: int = SIZE
    spec: BackboneSpec = SMALL16

    def __str__(self):
        return self.title.replace("`", "")


def save_whole(model, path):
    model.save(path)


def keras_model(build, recipe="bgr-caffe", save=save_whole):
    """Saved by Keras itself; its answers on pictures prepared by our recipe of this name."""

    def write(path):
        keras.utils.set_random_seed(0)
        keras.backend.clear_session()
        inputs = whole.prepared(PHOTOS, recipe)
        model = whole.shaken(build(), inputs)
        save(model, path)
        return whole.keras_probabilities(model, inputs)

    return write


def saved_unnamed(model, path):
    """As tf.keras 2.15 and Keras before 3.7 write it."""
    model.save(path)
    whole.unnamed(path)


def head(*names):
    return tuple(keras_model(whole.MODELS[name]) for name in names)


def before(*names):
    """Preprocessing traced into the graph, by its name in the tests of that."""

    def writer(name):
        def write(path):
            keras.backend.clear_session()
            built = inside.model(inside.CHAINS[name])
            built.save(path)
            if "adapted" in name:  # what was learned was shaken, too, and counts once it is loaded
                built = keras.models.load_model(path, compile=False)
            return np.asarray(built(PHOTOS.astype("f4"), training=False))

        return write

    return tuple(map(writer, names))


def of_keras_2(name):
    def write(path):
        entries, numpy = inside.OF_KERAS_2[name]
        inputs = numpy(PHOTOS.astype("f8")).astype("f4")
        built = whole.shaken(inside.model(lambda x: x), inputs)
        built.save(path)
        inside.as_keras_2(path, entries)
        return np.asarray(built(inputs))

    return write


def resized(path):
    """Pictures come as they are, and so are nothing to resize."""
    inputs = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    x = layers.Rescaling(1 / 255)(layers.Resizing(SIZE, SIZE)(inputs))
    x = layers.Dense(2, "softmax")(layers.Flatten()(keras_backbone(SMALL16, SIZE)(x)))
    model = whole.shaken(keras.Model(inputs, x), PHOTOS)
    model.save(path)
    return whole.keras_probabilities(model, PHOTOS)


def one_logit(path):
    model = whole.nested(layers.GlobalAveragePooling2D(), layers.Dense(1))
    inputs = whole.prepared(PHOTOS, "bgr-caffe")
    whole.shaken(model, inputs).save(path)
    second = 1 / (1 + np.exp(-np.asarray(model(inputs))))
    return np.concatenate([1 - second, second], 1)


def with_backbone(step):
    def build():
        base = whole.backbone_of(step)
        return keras.Sequential([keras.Input((SIZE, SIZE, 3)), base, layers.Flatten(), layers.Dense(2)])

    return build


def lambda_inside(path):
    prepare = layers.Lambda(keras.applications.vgg16.preprocess_input, output_shape=(SIZE, SIZE, 3))
    model = whole.shaken(whole.functional(*whole.notebook(), before=(prepare,)), PHOTOS.astype("f4"))
    model.save(path)
    return whole.keras_probabilities(model, PHOTOS.astype("f4"))


def refusing(build):
    """A model that Keras saves and nothing is compared of."""

    def write(path):
        keras.backend.clear_session()
        build().save(path)

    return write


def head_alone(save, build=lambda: alone.blog(2, 2, alone.C), read=lambda maps: maps):
    """The convolutions that it was trained behind lie in `base.h5` beside it."""

    def write(path):
        keras.utils.set_random_seed(0)
        maps = read(np.asarray(keras_backbone(SMALL16, SIZE)(whole.prepared(PHOTOS, "bgr-unit"))))
        model = whole.shaken(build(), maps)
        save(model, path)
        write_keras_h5(path.with_name("base.h5"), random_backbone(SMALL16))
        return whole.keras_probabilities(model, maps)

    return write


averages_alone = head_alone(save_whole, lambda: alone.blog(alone.C), lambda maps: maps.mean((1, 2)))


def save_beside_json(model, path):
    path.with_name("m.json").write_text(model.to_json())
    model.save_weights(path)


def conv_names(first_is_known):
    """Layers called conv1_1 to conv5_3, in a weights file of Keras: keras-vggface's, or the oldest with Caffe's."""

    def write(path):
        spec = evidence.WIDE if first_is_known else SMALL16
        arrays = evidence.told("Caffe's VGG16", True) if first_is_known else random_backbone(spec)
        write_keras_h5(path, {f"conv{name[5]}_{name[-1]}": pair for name, pair in arrays.items()})
        means = np.array((103.939, 116.779, 123.68) if first_is_known else (93.5940, 104.7624, 129.1863), "f4")
        return np.asarray(keras_network(arrays, spec, SIZE)(PHOTOS[..., ::-1].astype("f4") - means))

    return write


def caffe_in_torch(bgr, nan=False):
    """Caffe's weights under torchvision's names; of torchvision's own FEATURES, with a top of NaN."""

    def write(path):
        arrays = evidence.told("Caffe's VGG16", bgr)
        top = random_top(evidence.WIDE, size=SIZE)
        top = {name: tuple(np.full_like(array, np.nan) for array in pair) for name, pair in top.items()}
        write_torch_zip(path, torch_state(evidence.WIDE, arrays, top if nan else None, side=2))
        inputs = PHOTOS.astype("f4") - np.array((123.68, 116.779, 103.939), "f4")
        return np.asarray(keras_network(arrays, evidence.WIDE, SIZE)(inputs[..., ::-1] if bgr else inputs))

    return write


def onnx_head(producer, nodes):
    def write(path):
        model = vgg_graph(SMALL16, graphs.backbone(), producer=producer, head=False)
        onnx.save(graphs.attach(model, nodes), path)
        return graphs.probabilities(path, PHOTOS[..., ::-1])

    return write


def onnx_pool(path):
    """AdaptiveAvgPool2d of torch for pictures of 128 pixels."""
    onnx.save(graphs.pooled_graph(128, graphs.pooled_by_torch(4)), path)
    return graphs.probabilities(path, pictures(128)[..., ::-1])


def pictures(size):
    return PHOTOS if size == SIZE else graphs.verify.noise(size)


LOG_SOFTMAX = [*graphs.HEADS["torch, channel by channel"], ("LogSoftmax", [], {"axis": 1})]


def save_state(model, path):
    torch.save(model.state_dict(), path)


def torch_head(*names, save=save_state):
    """Of a whole network of PyTorch, by its name in the tests of those."""

    def writer(name):
        def write(path):
            model = torches.built(name)
            save(model, path)
            return torches.probabilities(model, PHOTOS)

        return write

    return tuple(map(writer, names))


def save_traced(model, path):
    torch.jit.save(torch.jit.trace(model, torches.inputs()[:1]), path)


def save_scripted(model, path):
    torch.jit.save(torch.jit.script(model), path)


def save_frozen(model, path):
    torch.jit.save(torch.jit.freeze(torch.jit.script(model)), path)


def save_under(prefix):
    return lambda model, path: torch.save({prefix + name: value for name, value in model.state_dict().items()}, path)


def torch_half(path):
    model = torches.built("three classes")
    torch.save(model.half().state_dict(), path)
    return torches.probabilities(model.float(), PHOTOS)


def torch_pool(path):
    nn = torch.nn
    dense = nn.Sequential(nn.Linear(49 * torches.C, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3))
    model = torches.built(torches.VGG(dense, pool=7))
    torch.save(model.state_dict(), path)
    return torches.probabilities(model, pictures(128))


def torch_alone(path):
    model = torches.built("three classes")
    torch.save(torches.beside(features=model.features).state_dict(), path.with_name("base.pth"))
    torch.save(torches.beside(classifier=model.classifier).state_dict(), path)
    return torches.probabilities(model, PHOTOS)


def prefixed(name):
    def write(path):
        torch.manual_seed(0)
        model = torches.PREFIXES[name]()
        convs = [one for one in model.modules() if isinstance(one, torch.nn.Conv2d) and one.kernel_size == (3, 3)]
        convs = convs[next(i for i, one in enumerate(convs) if one.in_channels == 3) :]
        x = torches.inputs(PHOTOS)
        with torch.no_grad():
            for one in convs:
                torch.nn.init.kaiming_normal_(one.weight)
            save_state(model, path)
            for i, one in enumerate(convs[:13]):
                x = torch.relu(one(x))
                x = torch.nn.functional.max_pool2d(x, 2) if i in (1, 3, 6, 9, 12) else x
        return x.permute(0, 2, 3, 1).numpy()

    return write


def torch_whole(path):
    torch.save(torches.VGG(torches.own()), path)


def compiled():
    return (*torch_head("three classes", save=save_traced), *torch_head("vgg16_bn", save=save_scripted))


def under_prefixes():
    return tuple(
        write for name in ("module.", "net.", "model.") for write in torch_head("three classes", save=save_under(name))
    )


def norms_and_maxima():
    return layers.BatchNormalization(), layers.GlobalMaxPooling2D(), layers.Dense(5, "relu"), layers.Dense(2)


def theano(path):
    """Kernels [out, in, height, width], as Keras 1 kept them on Theano."""
    arrays = {name: (k.transpose(3, 2, 0, 1), b) for name, (k, b) in random_backbone(SMALL16).items()}
    write_keras_h5(path, arrays)


def foreign(path):
    path.write_bytes(evidence.FOREIGN[path.name][0])


def folder_with(name):
    def write(path):
        path.mkdir()
        (path / name).write_bytes(b"x")

    return write


ALONE = ("--preprocess bgr-unit", "--backbone base.h5")
WEIGHTS_ALONE = (*ALONE, "--head-activations relu", "--logit")
RELU, RELU_NONE = ((*TORCHS, f"--head-activations {word}") for word in ("relu", "relu,none"))
BLOCKS, OTHER = whole.SAME_FUNCTION, whole.OTHER_FUNCTION
OPERATIONS = tuple(name for name in inside.CHAINS if name not in (*MODES, *LAYERS))
TRAIN = "vgg-flax train --data FOLDER"
HEADS = tuple(graphs.HEADS.values())
KINDS = [
    Kind("Keras: VGG nested or flat, Sequential or functional", "m.h5", head("notebook", "functional", "flat"), CAFFE),
    Kind("Keras: logits, one sigmoid, no bias", "m.keras", head("logits", "one sigmoid", "no bias"), CAFFE),
    Kind("Keras: Dense without activation before another", "m.keras", head("two linear layers"), CAFFE),
    Kind(
        "Keras: pools as large as the map, GlobalMaxPooling2D, Reshape",
        "m.h5",
        head("pool as large as the map", "largest of the map", "max pooling"),
        CAFFE,
    ),
    Kind(
        "Keras: ReLU, Softmax, Activation and BatchNormalization apart",
        "m.keras",
        head("norms everywhere", "activations apart"),
        CAFFE,
    ),
    Kind("Keras: Normalization of the features", "m.keras", head("standardised features"), CAFFE),
    Kind("Keras: Dense(1) without a sigmoid", "m.keras", (one_logit,), (*CAFFE, "--logit")),
    Kind(
        "Keras: convolution, BatchNormalization, ReLU",
        "m.keras",
        tuple(keras_model(with_backbone(BLOCKS[name])) for name in ("batch norms", "batch norms without parts")),
        CAFFE,
    ),
    Kind(
        "Keras: ReLU or ZeroPadding2D apart, convolutions without bias",
        "m.h5",
        tuple(keras_model(with_backbone(BLOCKS[k])) for k in ("activations apart", "padding apart", "without bias")),
        CAFFE,
    ),
    Kind("`preprocess_input` inside, Keras 3 `.h5`", "m.h5", before(*MODES)),
    Kind("`preprocess_input` inside, Keras 3 `.keras`", "m.keras", before(*MODES)),
    Kind("operations of Keras 2 (TFOpLambda), by hand", "m.h5", tuple(map(of_keras_2, inside.OF_KERAS_2))),
    Kind("Rescaling, Normalization, augmentation inside", "m.keras", before(*LAYERS)),
    Kind("other operations on pixels inside, Keras 3", "m.keras", before(*OPERATIONS)),
    Kind("Resizing inside", "m.keras", (resized,)),
    Kind("Lambda inside, which is not run", "m.keras", (lambda_inside,), CAFFE),
    Kind(
        "weights of Keras beside their architecture",
        "m.weights.h5",
        (keras_model(lambda: whole.functional(*norms_and_maxima()), save=save_beside_json),),
        CAFFE,
        ("--architecture m.json",),
    ),
    Kind("head alone, `.h5` (`bottleneck_fc_model.h5`)", "m.h5", (head_alone(save_whole),), ALONE),
    Kind("head alone, `.keras`", "m.keras", (head_alone(save_whole), head_alone(saved_unnamed)), ALONE),
    Kind("head alone, weights `.h5`", "m.h5", (head_alone(alone.save_h5),), WEIGHTS_ALONE),
    Kind("head alone, that reads averages", "m.h5", (averages_alone,), ALONE, ("--image-size 64",)),
    Kind("keras-vggface, layers called conv1_1", "w.h5", (conv_names(False),), backbone=True),
    Kind("the oldest files of Keras, layers called conv1_1", "w.h5", (conv_names(True),), backbone=True, spec=WIDE),
    Kind("Caffe's weights under torchvision's names, BGR", "w.pth", (caffe_in_torch(True),), backbone=True, spec=WIDE),
    Kind("the same in RGB", "w.pth", (caffe_in_torch(False),), backbone=True, spec=WIDE),
    Kind("IMAGENET1K_FEATURES, a top of NaN", "w.pth", (caffe_in_torch(False, nan=True),), backbone=True, spec=WIDE),
    Kind("ONNX of tf2onnx", "m.onnx", tuple(onnx_head("tf2onnx", one) for one in HEADS), RAW),
    Kind("ONNX of torch.onnx", "m.onnx", tuple(onnx_head("pytorch", one) for one in HEADS), RAW),
    Kind("ONNX that ends in LogSoftmax", "m.onnx", (onnx_head("pytorch", LOG_SOFTMAX),), RAW),
    Kind("ONNX of torch at 128 pixels, adaptive pool", "m.onnx", (onnx_pool,), RAW, size=128),
    *(
        Kind(f"refused: {title}", "m.keras", (refusing(build),), UNIT, step=step)
        for title, build, step in (
            ("LeakyReLU in the backbone", with_backbone(OTHER["leaky"][0]), TRAIN),
            ("ELU in the backbone", with_backbone(OTHER["elu"][0]), TRAIN),
            ("'valid' convolutions", with_backbone(OTHER["valid"][0]), TRAIN),
            ("softmax over one output", whole.REFUSED["softmax over one output"][0], r"m\.layers\[-1\].*sigmoid"),
            ("ReLU over one output", whole.REFUSED["relu over one output"][0], r"m\.layers\[-1\].*sigmoid"),
            ("a sigmoid for each class", whole.REFUSED["multi-label"][0], r"m\.layers\[-1\].*softmax"),
            ("another activation than ReLU in the head", whole.REFUSED["tanh"][0], r"vgg-flax convert import FILE DIR"),
            ("a crop inside", lambda: inside.model(inside.NOT_OF_THE_FORM["a crop"][0]), r"keras\.Sequential\(.*\)"),
        )
    ),
    Kind("refused: Lambda inside", "m.keras", (lambda_inside,), step=r"--preprocess bgr-caffe"),
    Kind("refused: kernels in Theano's order", "w.h5", (theano,), step=r"keras\.backend\.set_image_data_format\(\S+\)"),
    *(
        Kind(f"refused: {title}", name, (foreign,), step=step)
        for title, name, step in (
            ("a file packed by gzip", "w.h5.gz", r"gunzip"),
            ("`.mat` of MATLAB", "w.mat", r"exportONNXNetwork\(.*?\)"),
            ("`.tflite`", "w.tflite", r"python -m tf2onnx\.convert --output m\.onnx --tflite"),
            ("frozen `.pb`", "w.pb", r"python -m tf2onnx\.convert --output m\.onnx --graphdef"),
            ("`.caffemodel`", "w.caffemodel", r"pip install caffemodel2pytorch"),
            ("checkpoint of TensorFlow", "vgg_16.ckpt.index", r"model\.load_weights"),
            ("fastai's `.pkl`", "export.pkl", r"load_learner"),
            ("a bare pickle", "model.pt", r"weights_only=False\)\.state_dict\(\)"),
        )
    ),
    Kind(
        "refused: SavedModel folder",
        "saved",
        (folder_with("saved_model.pb"),),
        step=r"python -m tf2onnx\.convert --output m\.onnx --saved-model",
    ),
    Kind("refused: folder of checkpoints", "kept", (folder_with("checkpoint"),), step=r"model\.load_weights"),
]
if TORCH:
    KINDS += [
        Kind("PyTorch `state_dict`, three classes", "m.pth", torch_head("three classes"), TORCHS),
        Kind("PyTorch `vgg16_bn`", "m.pth", torch_head("vgg16_bn", "norms without bias"), TORCHS),
        Kind("PyTorch, VGG19", "m.pth", torch_head("vgg19"), TORCHS, spec=SPECS["vgg19"]),
        Kind("PyTorch, classifier.6 replaced by a Sequential", "m.pth", torch_head("classifier.6 replaced"), RELU),
        Kind(
            "PyTorch, Linear layers alone",
            "m.pth",
            torch_head("a linear layer", "two linear layers side by side"),
            TORCHS,
        ),
        Kind("PyTorch, averages of the map", "m.pth", torch_head("averages"), TORCHS, ("--image-size 64",)),
        Kind("PyTorch, BatchNorm1d", "m.pth", torch_head("batch norms"), RELU),
        Kind("PyTorch, BatchNorm1d behind the ReLU", "m.pth", torch_head("relu before the norm"), RELU_NONE),
        Kind("PyTorch, one logit", "m.pth", torch_head("one logit"), (*TORCHS, "--logit")),
        Kind("PyTorch, half precision", "m.pth", (torch_half,), TORCHS, limit=1e-3),
        Kind(
            "PyTorch, pictures of 128 pixels, adaptive pool",
            "m.pth",
            (torch_pool,),
            TORCHS,
            ("--image-size 128",),
            size=128,
        ),
        Kind("PyTorch, head alone", "m.pth", (torch_alone,), (*TORCHS, "--backbone base.pth")),
        Kind("PyTorch, traced and scripted", "m.pt", compiled(), TORCHS),
        Kind("PyTorch, under a prefix, whole", "m.pth", under_prefixes(), TORCHS),
        *(Kind(f"PyTorch, {name}", "m.pth", (prefixed(name),), backbone=True) for name in torches.PREFIXES),
        Kind(
            "refused: a whole PyTorch model, pickled",
            "m.pth",
            (torch_whole,),
            step=r"weights_only=False\)\.state_dict\(\)",
        ),
        Kind(
            "refused: PyTorch, torch.jit.freeze",
            "m.pt",
            torch_head("three classes", save=save_frozen),
            step=r"torch\.onnx\.export",
        ),
    ]


def bring(path, kind, classes):
    """(exit code, what was asked for, output): imported with each option only once it is asked for."""
    pending, asked = list(kind.options), []
    words = ["import", path, path.parent / "b", *typed(path, kind.said)]
    words += [] if kind.backbone else ["--classes", ",".join("abc"[:classes])]
    small = mock.patch.object(table, "WIDTHS", tuple(block[0] for block in kind.spec.blocks))
    with small, mock.patch.dict(table.SPECS, {kind.spec.name: kind.spec}):
        while True:
            code, out, error = table.run(*words)
            option = next((option for option in pending if option.split()[0] in error), None)
            if not code or not option:
                return code, asked, out + error
            pending.remove(option)
            asked.append(option.split()[0])
            words += typed(path, [option])


def typed(path, options):
    """Words of the command line; a file is that beside `path`."""
    words = [word for option in options for word in option.split()]
    return [path.with_name(word) if path.with_name(word).exists() else word for word in words]


def answers(folder, kind):
    """Of the folder that was written: like what the framework said."""
    if not kind.backbone:
        return Predictor.load(folder, engine="xla").probabilities(pictures(kind.size))
    found = bundle.load_backbone(folder)
    inputs = (PHOTOS - np.asarray(found.preprocessing.mean)) / np.asarray(found.preprocessing.std)
    with jax.default_matmul_precision("float32"):
        return np.asarray(bind_backbone(kind.spec, "float32", found.params)(inputs.astype("f4"))["block5"])


@functools.cache
def outcome(kind):
    """(what was asked for, what came in, the largest difference or None) of all files of a kind, which must agree."""
    found, differences = set(), []
    for write in kind.writes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / kind.name
            expected = write(path)
            code, asked, out = bring(path, kind, 2 if expected is None else expected.shape[-1])
            cell = f"refused; next: {told(out, kind.step)}" if code else "backbone" if kind.backbone else "whole"
            found.add((", ".join(f"`{name}`" for name in asked) or "-", cell))
            if not code:
                scale = np.abs(expected).max() if kind.backbone else 1
                assert np.ptp(expected, axis=0).max() > 1e-3 * scale, (
                    "the pictures must not all look alike to the model"
                )
                differences.append(np.abs(answers(path.parent / "b", kind) - expected).max() / scale)
    assert len(found) == 1, found
    return *found.pop(), max(differences, default=None)


def told(text, step):
    """The words of the next step, as the message has them."""
    found = re.search(step, text) if step else None
    assert found, f"no next step: {text}"
    return f"`{found[0]}`"


def cells(kind):
    """As the page has them: a difference is the power of ten that it is below."""
    asked, came, difference = outcome(kind)
    said = ", ".join(f"given `{option}`" for option in kind.said)
    power = None if difference is None else max(math.ceil(math.log10(difference or 1e-9)), -7)
    asked = ", ".join(word for word in (asked if asked != "-" else "", said) if word) or "-"
    return asked, came, "-" if power is None else f"below 1e{power}"


def written(markers=MARKERS):
    """The rows that docs/weights.md has."""
    lines = PAGE.read_text().partition(markers[0])[2].partition(markers[1])[0].splitlines()[2:]
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    return {title: tuple(rest) for title, *rest in rows}


def write(kinds, markers=MARKERS):
    """The rows of the page, as measured."""
    rows = ["| " + " | ".join((kind.title, *cells(kind))) + " |" for kind in kinds]
    text = "\n".join(["| " + " | ".join(TITLES) + " |", "|---" * len(TITLES) + "|", *rows]) + "\n"
    start, _, rest = PAGE.read_text().partition(markers[0])
    PAGE.write_text(start + markers[0] + text + markers[1] + rest.partition(markers[1])[2])


def check(kind, markers=MARKERS):
    """It says what its framework says, and what the page says."""
    *_, difference = outcome(kind)
    assert (difference is None) == bool(kind.step)
    assert difference is None or difference <= kind.limit
    if not os.environ.get("WRITE_TABLE"):
        page = written(markers)[kind.title]
        assert page[:2] == cells(kind)[:2], f"docs/weights.md says otherwise. If what happened is right: {COMMAND}"
        assert difference is None or difference <= 10 * float(page[2].removeprefix("below "))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_says_what_its_framework_says(kind):
    """And what the page says; the figure there is of one machine, and another's rounding may be ten times as large."""
    check(kind)


def test_the_page_has_a_row_for_each_kind():
    if os.environ.get("WRITE_TABLE"):
        assert TORCH, "the table is written where torch is installed: pip install torch"
        write(KINDS)
    titles = [kind.title for kind in KINDS]
    assert [title for title in written() if title in titles or TORCH] == titles
