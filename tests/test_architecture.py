"""The rules of the house: imports run one way and in no circle, heavy packages stay where they belong."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
GROUND = ["ending", "errors", "files", "console", "region", "cli", "cache", "compilation"]
GROUND += ["settings", "doctor_settings", "webcam_settings"]
FLOORS = [GROUND, ["network"], ["data"], ["store"], ["answers"], ["training"], ["insight"], ["report", "live"]]
FLOORS.append(["commands", "__main__"])
ONLY_IN = {
    "orbax": ("vgg_flax/training/checkpoint.py",),
    "matplotlib": ("vgg_flax/report/",),
    "jinja2": ("vgg_flax/report/page.py", "weights_convert/writers/card.py", "weights_convert/writers/hub.py"),
    "av": ("vgg_flax/live/recording.py",),
    "tensorflow_datasets": ("vgg_flax/data/tfds.py",),
    "weights_convert": ("weights_convert/", "vgg_flax/commands/"),
}
MAY_PRINT = ("vgg_flax/__main__.py", "vgg_flax/commands/")
HEAVY = {"tensorflow", "matplotlib", "jinja2", "h5py", "onnx", "torch", "keras", "tensorflow_datasets"}


def modules():
    return sorted((REPOSITORY / "vgg_flax").rglob("*.py")) + sorted((REPOSITORY / "weights_convert").rglob("*.py"))


def short(path):
    return str(path.relative_to(REPOSITORY))


def module_name(path):
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path):
    """Every module that the file imports, anywhere in it, but for annotations alone.

    `from a import b` imports a.b where that is a module of ours, else a.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            node.body = []
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{short(path)}:{node.lineno}: write the package's whole name"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {one if one in OURS else node.module for one in inner}
    return names


OURS = {module_name(path): path for path in modules()}


def floor(name):
    return next((i for i, names in enumerate(FLOORS) if name in names), None)


@pytest.mark.parametrize("path", modules(), ids=short)
def test_imports_run_one_way(path):
    package, *inside = module_name(path).split(".")
    names = imports(path)
    for name in names:
        parts = name.split(".")
        if package == "vgg_flax" and inside and parts[0] == "vgg_flax" and len(parts) > 1:
            own, other = floor(inside[0]), floor(parts[1])
            assert own is not None and other is not None, f"{short(path)} imports {name}, which is no part of the house"
            level = own == other and own > 0 and inside[0] != parts[1]
            assert other <= own and not level, f"{short(path)} imports {name}, which does not stand below it"
    for heavy, allowed in ONLY_IN.items():
        if any(name.split(".")[0] == heavy for name in names):
            assert short(path).startswith(allowed), f"{heavy} belongs to {allowed}"


def test_every_module_has_its_floor():
    folder = REPOSITORY / "vgg_flax"
    names = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    assert names - {"__init__"} == {name for names in FLOORS for name in names}


def circles(arrows):
    """A line for each way through {name: names that it imports} that comes back to where it was."""
    done, found = set(), []

    def visit(name, way):
        if name in way:
            found.append(" -> ".join([*way[way.index(name) :], name]))
        elif name not in done:
            for target in sorted(arrows[name]):
                visit(target, [*way, name])
            done.add(name)

    for name in sorted(arrows):
        visit(name, [])
    return found


def test_no_import_runs_in_a_circle():
    assert not circles({name: {one for one in imports(path) if one in OURS} for name, path in OURS.items()})
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b -> c -> b"]


def test_importing_the_package_loads_nothing_heavy():
    names = "vgg_flax, vgg_flax.answers.predictor, vgg_flax.commands.convert, weights_convert.writers"
    code = f"import sys, {names}; print(sorted(sys.modules))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(answer.stdout))
    assert not loaded & HEAVY


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def lines_of(node):
    return node.end_lineno - node.lineno + 1


def test_files_and_functions_fit_their_reader():
    files, tall = {}, {}
    for path in modules():
        text = path.read_text(encoding="utf-8")
        files[short(path)] = len(text.splitlines())
        tall |= {f"{short(path)}: {node.name}": lines_of(node) for node in functions(ast.parse(text))}
    assert not {name: lines for name, lines in files.items() if lines > 350}
    assert not {name: lines for name, lines in tall.items() if lines > 60}


def test_the_story_of_a_run_is_told_without_closures():
    tree = ast.parse((REPOSITORY / "vgg_flax" / "commands" / "train.py").read_text())
    nested = {inner.name: lines_of(inner) for outer in functions(tree) for inner in functions(outer) if inner != outer}
    assert not {name: lines for name, lines in nested.items() if lines > 5}


def prints(tree, allowed=()):
    """Lines with a call of print(), outside the functions that are allowed one."""
    spared = {inner for node in functions(tree) if node.name in allowed for inner in ast.walk(node)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node not in spared]
    return [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]


@pytest.mark.parametrize("path", [path for path in modules() if not short(path).startswith(MAY_PRINT)], ids=short)
def test_libraries_never_print(path):
    allowed = ("fail",) if short(path) == "vgg_flax/cli.py" else ()
    assert not prints(ast.parse(path.read_text(encoding="utf-8")), allowed)
