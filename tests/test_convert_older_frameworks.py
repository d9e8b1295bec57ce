"""Files that an older framework wrote by itself: imported, and compared with what it said of the same pictures.

VGG_FLAX_TEST_OLD_KERAS is the Python of an environment with tests/older_frameworks.txt, and Keras 3.6 in its folder
keras-3; `.ci/run` makes one. The table in docs/weights.md is written by these tests with WRITE_TABLE=1.
"""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest
import test_convert_kinds as kinds
import test_convert_table as table
from test_convert_files import KERAS_NOISE, SMALL16
from test_convert_kinds import CAFFE, Kind

from vgg_flax.answers.predictor import Predictor
from vgg_flax.network.spec import BACKBONES

PYTHON = os.environ.get("VGG_FLAX_TEST_OLD_KERAS", "")
pytestmark = pytest.mark.filterwarnings(*KERAS_NOISE)
older = pytest.mark.skipif(not PYTHON, reason="VGG_FLAX_TEST_OLD_KERAS is not set")
MARKERS = (f"<!-- older: {kinds.COMMAND.replace('kinds', 'older_frameworks')} -->\n", "<!-- end of older -->\n")
SCRIPT, WIDE, UNIT = Path(__file__).with_name("older_frameworks.py"), BACKBONES["vgg16"], ("--preprocess rgb-unit",)


def run(*words, **environment):
    """A command in the other environment, which must do its work."""
    words = [PYTHON, *map(str, words)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@functools.cache
def folder(framework):
    """Everything that one of them writes, once."""
    found = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, found, ignore_errors=True)
    np.save(found / "photos.npy", kinds.PHOTOS)
    run(SCRIPT, found, framework, PYTHONPATH=str(Path(PYTHON).parents[1] / "keras-3") if framework == "keras3" else "")
    return found


def answers(found, name):
    expected = np.load(found / f"{name}.npy")
    return np.concatenate([1 - expected, expected], 1) if expected.shape[1] == 1 else expected


def written_by(framework):
    def write(path):
        found, name = folder(framework), path.name.partition(".")[0]
        for file in found.glob(f"{name}.json"):
            shutil.copy(file, path.with_name(file.name))
        shutil.move(found / path.name, path)
        return answers(found, name)

    return (write,)


OF_2, OF_3, JSON = written_by("keras2"), written_by("keras3"), ("--architecture notebook.json",)
SIDE = ("--image-size 64",)
KINDS = [
    Kind("tf.keras: a notebook's Sequential, trained by Adam, `.h5`", "notebook.h5", OF_2, CAFFE, spec=WIDE),
    Kind("tf.keras: the same, `.keras`", "notebook.keras", OF_2, CAFFE, spec=WIDE),
    Kind("tf.keras: the same, `.weights.h5`", "notebook.weights.h5", OF_2, CAFFE, JSON, spec=WIDE),
    Kind("tf.keras: `preprocess_input` inside, `training=False`", "traced.h5", OF_2, spec=WIDE),
    Kind("tf.keras: `tf.cast`, `tf.split`, `tf.concat` inside", "reverse.h5", OF_2, spec=WIDE),
    Kind("tf.keras: augmentation, Rescaling, one sigmoid, `.keras`", "augmented.keras", OF_2, spec=WIDE),
    Kind("tf.keras: batch norms, a cell that ran twice, `.keras`", "numbered.keras", OF_2, UNIT, spec=SMALL16),
    Kind("tf2onnx: `preprocess_input` inside", "traced.onnx", OF_2, spec=WIDE),
    Kind("Keras 3.6: `preprocess_input` inside, `.keras`", "traced3.keras", OF_3, spec=WIDE),
    Kind("Keras 3.6: batch norms, a cell that ran twice, `.keras`", "numbered3.keras", OF_3, UNIT, spec=SMALL16),
    Kind("Keras 3.6: mixed precision, `.keras`", "mixed3.keras", OF_3, spec=WIDE),
    Kind("Keras 3.6: a network with `call`, `.weights.h5`", "subclass3.weights.h5", OF_3, CAFFE, SIDE, spec=WIDE),
]


@older
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_file_of_an_older_framework_says_what_it_says(kind):
    kinds.check(kind, MARKERS)


def test_the_page_has_a_row_for_each_of_them():
    if os.environ.get("WRITE_TABLE") and PYTHON:
        kinds.write(KINDS, MARKERS)
    assert list(kinds.written(MARKERS)) == [kind.title for kind in KINDS]


@older
@pytest.mark.parametrize("name", ["saved", "kept"])
def test_what_is_refused_comes_in_by_what_the_message_says(tmp_path, name):
    """Typed as it is printed, but for where pip installs: that is this environment."""
    found = folder("keras2")
    code, _, error = table.run("import", found / name, tmp_path / "none", "--classes", "a,b,c")
    line = error.partition("Next, ")[2].removesuffix(".")
    assert code == 2 and line
    if name == "saved":
        run(*line.partition("; python ")[2].replace("m.onnx", str(tmp_path / "m.onnx")).split())
    else:
        run(SCRIPT, found, "typed", line.partition("model: ")[2].replace("model.h5", str(tmp_path / "m.h5")))
    (made,) = tmp_path.glob("m.*")
    kind = Kind(name, made.name, (), spec=WIDE)
    code, _, out = kinds.bring(made, kind, 3)
    assert code == 0, out
    probabilities = Predictor.load(tmp_path / "b", engine="xla").probabilities(kinds.PHOTOS)
    np.testing.assert_allclose(probabilities, answers(found, "traced"), atol=1e-5)
