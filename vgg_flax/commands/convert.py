"""`vgg-flax convert`: other frameworks' weights, in and out. The program itself is `weights_convert`."""

from __future__ import annotations

from weights_convert import __main__ as program


def main(args: list[str]) -> None:
    """Run `inspect`, `import`, `export` or `verify`, the first of `args`."""
    program.main(args, "vgg-flax convert")
