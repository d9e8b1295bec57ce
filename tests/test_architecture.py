"""The rules of the house: imports run one way, heavy packages stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
LAYERS = [
    ["config", "files"],
    ["params", "console", "compilation", "preprocess"],
    ["model", "augment", "data", "winograd"],
    ["batches", "features", "training", "checkpoint", "bundle"],
    ["predict", "evaluate", "report", "runs"],
    ["grid", "live"],
]
ONLY_IN = {
    "orbax": {"vgg_flax/checkpoint.py"},
    "matplotlib": {"vgg_flax/report.py"},
    "tensorflow_datasets": {"vgg_flax/data/tfds.py"},
}


def modules():
    return sorted((REPOSITORY / "vgg_flax").rglob("*.py")) + sorted((REPOSITORY / "weights_convert").rglob("*.py"))


def imports(path):
    """Every module name that the file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def layer(name):
    return next((i for i, names in enumerate(LAYERS) if name in names), None)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_run_one_way(path):
    package, *inside = path.relative_to(REPOSITORY).with_suffix("").parts
    names = imports(path)
    if package == "vgg_flax":
        assert not any(name.split(".")[0] == "weights_convert" for name in names)
        own = layer(inside[0])
        for name in names:
            parts = name.split(".")
            if parts[0] == "vgg_flax" and len(parts) > 1 and (other := layer(parts[1])) is not None and own is not None:
                assert other <= own, f"{path.name} imports {name}, which stands above it"
    for heavy, allowed in ONLY_IN.items():
        if any(name.split(".")[0] == heavy for name in names):
            assert str(path.relative_to(REPOSITORY)) in allowed, f"{heavy} belongs to {allowed}"


def test_every_module_has_its_layer():
    folder = REPOSITORY / "vgg_flax"
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert names - {"__init__"} == {name for names in LAYERS for name in names}


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, vgg_flax, vgg_flax.predict, weights_convert; print(sorted(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(answer.stdout))
    assert not loaded & {"tensorflow", "matplotlib", "h5py", "onnx", "torch", "keras", "tensorflow_datasets"}


def test_no_file_outgrows_its_reader():
    long = {str(path): len(path.read_text().splitlines()) for path in modules()}
    assert not {name: lines for name, lines in long.items() if lines > 350}
