"""The one way a command line becomes settings. Without JAX, so that --help and typing mistakes are answered at once."""

from __future__ import annotations

import difflib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import Any, NoReturn, TypeVar

import tyro
from tyro import _errors as mistakes  # its hook is private still, hence the narrow range of versions that is asked for

from vgg_flax.errors import UserError
from vgg_flax.files import printable

T = TypeVar("T")
Alias, Positional = tyro.conf.arg, tyro.conf.Positional
ALL_OPTIONS = " All options: --help"
MARKERS = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes)


def parse(settings: type[T], description: str | None = None, args: list[str] | None = None, prog: str = "") -> T:
    """Settings from the command line. A mistake prints one line, names the nearest option, and exits with 2.

    Args:
      settings: a dataclass, or a union of annotated ones for sub-commands.
      prog: what the usage line calls the program; unset: what was typed.
    """
    try:
        return read(settings, sys.argv[1:] if args is None else args, description, prog)
    except UserError as error:
        fail(error)


def read(
    settings: type[T], args: list[str], description: str | None = None, prog: str = "", default: T | None = None
) -> T:
    """As `parse`, but a mistake raises UserError. What is not in `args` comes from `default`, where that is given."""

    def explain(mistake: Any) -> None:
        raise UserError(_one_line(mistake, settings) + ALL_OPTIONS)

    given: dict[str, Any] = {} if default is None else {"default": default}
    with mistakes.on_parse_error(explain):
        return tyro.cli(settings, description=description, args=args, prog=prog or None, config=MARKERS, **given)


def _one_line(mistake: Any, settings: Any) -> str:
    """What is wrong, and what was probably meant."""
    match mistake:
        case mistakes.UnrecognizedArgs():
            return _unknown(mistake.tokens, settings)
        case mistakes.InvalidChoice():
            choices = ", ".join(mistake.choices)
            return f"{_option(mistake.argument)} is {mistake.value!r}, expected one of {choices}."
        case mistakes.BadValue():
            return f"{_option(mistake.argument)} needs a value, expected {_metavar(mistake.argument)}."
        case mistakes.MissingArgs():
            missing = ", ".join(_option(one.arg) for one in mistake.missing_arguments)
            extra = f" {_unknown(mistake.unrecognized_tokens, settings)}" if mistake.unrecognized_tokens else ""
            return f"missing: {missing}.{extra}"
        case mistakes.MissingSubcommand():
            known = list(mistake.subcommand_spec.parser_from_name)
            found = mistake.found_token
            return (
                f"{found!r} is no command{nearest(found, known)}" if found else f"expected one of {', '.join(known)}."
            )
        case mistakes.InstantiationFailure(argument=None):
            return f"{mistake.message}"
        case mistakes.InstantiationFailure():
            expected = _metavar(mistake.argument)
            found = mistake.message.rpartition("from [")[2].partition("]")[0] or mistake.message
            found = found.rpartition(": ")[2]  # of a number: "invalid literal for int() with base 10: 'x'"
            return f"{_option(mistake.argument)} is {found}, expected {expected.removeprefix('{None}|')}."
    return f"{type(mistake).__name__} in what was typed."


def _metavar(argument: Any) -> str:
    return argument.lowered.metavar or ""


def _option(argument: Any) -> str:
    """As --help names it: an option, or what stands in a place of its own, such as RUN."""
    flags = argument.lowered.name_or_flags
    return next((flag for flag in reversed(flags) if flag.startswith("--")), _metavar(argument) or flags[0])


def _unknown(tokens: list[str], settings: Any) -> str:
    wrong = next((token for token in tokens if token.startswith("-")), tokens[0])
    return f"unknown option {wrong}{nearest(wrong.partition('=')[0], option_names(settings))}"


def option_names(settings: Any) -> list[str]:
    """Every --option of a settings dataclass, groups included."""
    names = []
    for annotated in getattr(settings, "__args__", (settings,)):  # sub-commands: a union
        plain = getattr(annotated, "__origin__", annotated)
        for name, field in getattr(plain, "__dataclass_fields__", {}).items():
            inner = getattr(field.default_factory, "__dataclass_fields__", None) or getattr(
                type(field.default), "__dataclass_fields__", None
            )
            names += [f"--{one.replace('_', '-')}" for one in (inner or [name])]
    return names


def nearest(typed: str, known: Iterable[str]) -> str:
    """A sentence that names the closest of `known`, or a full stop."""
    closest = difflib.get_close_matches(typed, list(known), 1, cutoff=0.5)
    return f". Did you mean {closest[0]}?" if closest else "."


def fail(error: object) -> NoReturn:
    """Print one line on standard error, in a terminal broken between words, and exit with the error's code, or 2."""
    line = f"error: {printable(str(error))}"
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns
        line = textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
    print(line, file=sys.stderr)
    raise SystemExit(getattr(error, "code", 2))


def end_unread() -> NoReturn:
    """End as the system ends a program whose reader went away (`| head`): without a word, exit code 141."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:  # Python would flush it once more, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise SystemExit(141)
