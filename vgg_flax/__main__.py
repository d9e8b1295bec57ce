"""`vgg-flax VERB ...`, the same as `python -m vgg_flax`. A command is found, and its settings read, without JAX.

Ctrl-C is answered from the first statement on, so what takes time to import is imported where it is used.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

from vgg_flax import ending


class Verb(NamedTuple):
    """A command: the class of its settings, a line that says what it does, examples, and where the settings are."""

    settings: str
    summary: str
    examples: tuple[str, ...] = ()
    module: str = "vgg_flax.settings"


VERBS = {
    "train": Verb(
        "TrainSettings",
        "Train a classifier on your photos, evaluate it, leave a run folder.",
        (
            "vgg-flax train                          handwritten digits, built in",
            "vgg-flax train --data photos/           one folder per class",
            "vgg-flax train --data tfds:tf_flowers   TensorFlow Datasets",
            "vgg-flax train --resume                 go on with the newest run",
        ),
    ),
    "predict": Verb(
        "PredictSettings",
        "Ask a trained model about pictures: a table, or --csv, --json.",
        (
            "vgg-flax predict runs/train photos/",
            'vgg-flax predict runs/train "new/*.jpg" archive.zip clip.mp4 --csv',
            "find . -name '*.jpg' | vgg-flax predict runs/train - --json",
        ),
    ),
    "evaluate": Verb(
        "EvaluateSettings",
        "Measure a trained model on labelled photos that it has not seen.",
        (
            "vgg-flax evaluate runs/train --data new_photos/",
            "vgg-flax evaluate runs/train --data photos.zip --partial   some classes only",
        ),
    ),
    "doctor": Verb(
        "DoctorSettings",
        "Find what is wrong with your photos: copies, wrong labels, leaks.",
        (
            "vgg-flax doctor photos/          a ranked list, and a CSV for each finding",
            "vgg-flax doctor photos.zip --name second_look",
        ),
        "vgg_flax.doctor_settings",
    ),
    "report": Verb(
        "ReportSettings",
        "Show a run on one page, or compare runs.",
        (
            "vgg-flax report runs/train              writes runs/train/report.html",
            "vgg-flax report runs/train runs/train2  puts them side by side",
        ),
    ),
    "webcam": Verb(
        "WebcamSettings",
        "Label what a camera, video, stream or folder of pictures shows.",
        (
            "vgg-flax webcam                                          newest run, camera 0",
            "vgg-flax webcam --source clip.mp4 --save labelled.mp4    every frame",
            "vgg-flax webcam --source photos/ --show terminal --json out.jsonl",
            "vgg-flax webcam --source http://phone:8080/video         a stream, or rtsp://",
        ),
        "vgg_flax.webcam_settings",
    ),
    "convert": Verb("", "Other frameworks' VGG weights: inspect, import, export, verify."),
    "cache": Verb(
        "CacheSettings",
        "List what is kept between runs, or make room.",
        ("vgg-flax cache                  what is kept, how large, used when", "vgg-flax cache --prune 10GB"),
    ),
}


def program(args: list[str] | None = None) -> None:
    """All of a process: `main`, and Ctrl-C and SIGTERM end it with one line and exit code 130 or 143.

    Python's own end is left out: XLA's threads may still hold an array of NumPy's, and abort when they give it back.
    """
    _open_streams()
    ending.own_signals()
    code = 0
    try:
        main(args)
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        code = end.code or 0
    ending.leave(code)


def _open_streams() -> None:
    """Standard output that is closed is nowhere, and what its encoding lacks is written as an escape."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, number)
            setattr(sys, name, open(number, "w", closefd=False))  # noqa: SIM115
        getattr(sys, name).reconfigure(errors="backslashreplace")


def main(args: list[str] | None = None) -> None:
    """Run one command; a mistake is one line and exit code 2. Output that nobody reads any more ends it with 141."""
    from vgg_flax import cli

    try:
        try:
            _run(sys.argv[1:] if args is None else args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        cli.end_unread()


def _run(args: list[str]) -> None:
    import importlib
    from errno import ENAMETOOLONG

    from vgg_flax import __version__, cli
    from vgg_flax.errors import REFUSALS, NotSaved, UserError

    verb, *rest = args or ["--help"]
    if verb in ("-h", "--help"):
        return print(_help())
    if verb == "--version":
        return print(f"vgg-flax {__version__}")
    if verb not in VERBS:
        cli.fail(f"{verb!r} is no command{cli.nearest(verb, VERBS)} Expected one of {', '.join(VERBS)}.")
    command = f"vgg_flax.commands.{verb}"
    chosen = rest if verb == "convert" else _settings(verb, rest)  # whose own verbs have their settings
    more = [lambda default: cli.read(type(chosen), rest, default=default)] if verb == "train" else []
    try:
        importlib.import_module(command).main(chosen, *more)
    except UserError as error:
        cli.fail(error)
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        step = "Give a shorter one" if error.errno == ENAMETOOLONG else "Make room, or allow reading and writing there"
        cli.fail(NotSaved(f"{where}{error.strerror}. {step}."))


def _settings(verb: str, args: list[str]) -> Any:
    import importlib

    from vgg_flax import cli

    about = VERBS[verb]
    description = "\n".join([about.summary, "", *(f"  {line}" for line in about.examples)])
    kind = getattr(importlib.import_module(about.module), about.settings)
    return cli.parse(kind, description, args, prog=f"vgg-flax {verb}")


def _help() -> str:
    lines = [f"  {name:10}{verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: vgg-flax COMMAND [OPTIONS]",
            "",
            "Photos in, a classifier you can trust out: VGG16 and VGG19 in JAX/Flax.",
            "",
            *lines,
            "",
            "vgg-flax COMMAND --help has the options of a command.",
        ]
    )


if __name__ == "__main__":
    program()
