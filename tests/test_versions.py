"""What is kept in the cache is found under the versions of the code that made it: other code must not find old rows."""

from __future__ import annotations

import ast
import hashlib
import re
from pathlib import Path

import pytest

from vgg_flax.data import copies, decode
from vgg_flax.network import augment, preprocess, winograd

PACKAGE = Path(winograd.__file__).parents[2]
# source: (VERSION, digest of the source without comments and docstrings)
PINNED = {
    "network/augment.py": (augment, 1, "51b8ae3c161e8319"),
    "network/preprocess.py": (preprocess, 1, "41ebbe8362709cc8"),
    "data/decode.py": (decode, 2, "6bae5f446d213874"),
    "data/heif.py": (decode, 2, "b6c68fd8f30e8af5"),
    "data/orientation.py": (decode, 2, "3db1ccf74db42664"),
    "data/copies.py": (copies, 1, "e1bd2a0cf4247882"),
    "network/winograd/__init__.py": (winograd, 1, "f1b244946ad7cfcd"),
    "network/winograd/kernel.cc": (winograd, 1, "1c677362baa02987"),
}


def outline(node: object) -> object:
    """A syntax tree as nested lists, the same in every version of Python; no docstrings."""
    if isinstance(node, list):
        return [outline(one) for one in node if not _is_text(one)]
    if isinstance(node, ast.AST):
        fields = [(name, outline(value)) for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, fields]
    return repr(node)


def _is_text(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def digest(source: str, suffix: str) -> str:
    if suffix == ".py":
        text = repr(outline(ast.parse(source)))
    else:
        text = " ".join(re.sub(r"//.*|/\*.*?\*/", "", source).split())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", PINNED)
def test_code_that_decides_pixels_and_bits_changes_with_its_version(name):
    module, version, pinned = PINNED[name]
    found = digest((PACKAGE / name).read_text(encoding="utf-8"), Path(name).suffix)
    assert (module.VERSION, found) == (version, pinned), (
        f"{name} changed. If a pixel or a bit that comes out may differ, raise its VERSION, or the cache goes on "
        "giving rows of the old code; then write the new version and digest here."
    )


def test_comments_docstrings_and_layout_need_no_new_version():
    plain = 'def f(x):\n    """Say."""\n    return x + 1\n'
    assert digest(plain, ".py") == digest("# why\ndef f(x):\n    return (x  +  1)\n", ".py")
    assert digest(plain, ".py") != digest(plain.replace("1", "2"), ".py")
    assert digest("int x;  // why\n", ".cc") == digest("int  x;\n", ".cc") != digest("int y;\n", ".cc")
