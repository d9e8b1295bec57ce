"""The rules of the house: imports run one way and in no circle, heavy packages stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
GROUND = ["errors", "files", "console", "settings", "cli", "cache", "compilation"]
FLOORS = [GROUND, ["network"], ["data"], ["store"], ["answers"], ["training"], ["insight"], ["report", "live"]]
FLOORS.append(["commands", "__main__"])
ONLY_IN = {
    "orbax": ("vgg_flax/training/checkpoint.py",),
    "matplotlib": ("vgg_flax/report/",),
    "tensorflow_datasets": ("vgg_flax/data/tfds.py",),
    "weights_convert": ("weights_convert/", "vgg_flax/commands/"),
}
MAY_PRINT = ("vgg_flax/__main__.py", "vgg_flax/cli.py", "vgg_flax/commands/", "weights_convert/__main__.py")


def modules():
    return sorted((REPOSITORY / "vgg_flax").rglob("*.py")) + sorted((REPOSITORY / "weights_convert").rglob("*.py"))


def short(path):
    return str(path.relative_to(REPOSITORY))


def module_name(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Every module name that the file imports, anywhere in it, but for annotations alone."""
    tree = ast.parse(path.read_text())
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(name):
    return next((i for i, names in enumerate(FLOORS) if name in names), None)


@pytest.mark.parametrize("path", modules(), ids=short)
def test_imports_run_one_way(path):
    package, *inside = module_name(path).split(".")
    names = imports(path)
    for name in names:
        parts = name.split(".")
        if package == "vgg_flax" and inside and parts[0] == "vgg_flax" and len(parts) > 1:
            other = floor(parts[1])
            assert other is None or other <= floor(inside[0]), f"{short(path)} imports {name}, which stands above it"
    for heavy, allowed in ONLY_IN.items():
        if any(name.split(".")[0] == heavy for name in names):
            assert short(path).startswith(allowed), f"{heavy} belongs to {allowed}"


def test_every_module_has_its_floor():
    folder = REPOSITORY / "vgg_flax"
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert names - {"__init__"} == {name for names in FLOORS for name in names}


def test_no_import_runs_in_a_circle():
    paths = {module_name(path): path for path in modules()}
    arrows = {name: {one for one in imports(path) if one in paths and one != name} for name, path in paths.items()}
    for name, targets in arrows.items():  # a package's own __init__ only names its rooms
        arrows[name] = {target for target in targets if not name.startswith(f"{target}.")}
    done, circles = set(), []

    def visit(name, way):
        if name in way:
            circles.append(" -> ".join([*way[way.index(name) :], name]))
        elif name not in done:
            for target in sorted(arrows[name]):
                visit(target, [*way, name])
            done.add(name)

    for name in sorted(arrows):
        visit(name, [])
    assert not circles


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, vgg_flax, vgg_flax.answers.predictor, weights_convert; print(sorted(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(answer.stdout))
    assert not loaded & {"tensorflow", "matplotlib", "h5py", "onnx", "torch", "keras", "tensorflow_datasets"}


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines_of(node):
    return node.end_lineno - node.lineno + 1


def test_files_and_functions_fit_their_reader():
    files, tall = {}, {}
    for path in modules():
        text = path.read_text()
        files[short(path)] = len(text.splitlines())
        tall |= {f"{short(path)}: {node.name}": lines_of(node) for node in functions(ast.parse(text))}
    assert not {name: lines for name, lines in files.items() if lines > 350}
    assert not {name: lines for name, lines in tall.items() if lines > 60}


def test_the_story_of_a_run_is_told_without_closures():
    tree = ast.parse((REPOSITORY / "vgg_flax" / "commands" / "train.py").read_text())
    nested = {inner.name: lines_of(inner) for outer in functions(tree) for inner in functions(outer) if inner != outer}
    assert not {name: lines for name, lines in nested.items() if lines > 5}


@pytest.mark.parametrize("path", [path for path in modules() if not short(path).startswith(MAY_PRINT)], ids=short)
def test_libraries_never_print(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]
