"""`vgg-flax convert inspect|import|export|verify`: other frameworks' weights, in and out.

Nothing here loads NumPy, OpenCV or JAX before the command line is understood.
"""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from vgg_flax import cli
from vgg_flax.errors import UserError
from vgg_flax.files import typed

if TYPE_CHECKING:
    from vgg_flax.data.dataset import Dataset
    from weights_convert.convert import Plan
    from weights_convert.tensor import Source

PROGRAM = "vgg-flax convert"
Dialect = Literal[
    "auto",
    "keras",
    "keras-numbered",
    "vggface",
    "torchvision",
    "timm",
    "machrisaa",
    "frossard",
    "vgg_flax",
    "onnx-keras",
    "onnx-vgg_flax",
    "onnx-torch",
]
Format = Literal["auto", "onnx", "keras", "stablehlo", "safetensors", "keras-weights", "torchvision", "hub"]
File = Annotated[Path, tyro.conf.Positional, cli.Alias(metavar="FILE")]
Folder = Annotated[Path, tyro.conf.Positional, cli.Alias(metavar="DIR")]
Run = Annotated[Path, tyro.conf.Positional, cli.Alias(metavar="RUN")]


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Show what a weight file holds and how it would be imported.

    Of its values only a few are read.
    """

    file: File
    """Keras .h5 or .keras, ONNX, safetensors, PyTorch .pth, NumPy .npz or .npy."""
    dialect: Dialect = "auto"
    """Whose names and layouts the file has; auto: those that fit the most tensors."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """How the file is read, where it does not say so itself."""

    dialect: Dialect = "auto"
    """As in inspect."""
    image_size: int | None = None
    """Side of the pictures that a whole model was trained on; unset: as the file says, or 224."""
    logit: bool = False
    """The one output of a whole model is a logit, positive for the second class."""
    head_activations: str | None = None
    """Of a head in a file without an architecture: relu,none,..., one for each place between its layers."""
    architecture: Path | None = None
    """What model.to_json() gave, for a Keras file that holds weights alone."""
    backbone: str | None = None
    """What lies before a head that is alone in the file: imagenet, or another weight file or folder."""


@dataclasses.dataclass(frozen=True)
class Import:
    """Convert a weight file into a folder that `train --weights` takes.

    With --classes or --data a fine-tuned model comes in whole, its head included, and
    `webcam --model` takes it, too.
    """

    file: File
    """Keras .h5 or .keras, ONNX, safetensors, PyTorch .pth, NumPy .npz or .npy."""
    folder: Folder
    """Where the converted weights go."""
    data: str | None = None
    """Labelled photos, as for train: tries every recipe on a few of them and keeps the best."""
    preprocess: str | None = None
    """How a whole model's pictures were prepared: rgb- or bgr- with unit, symmetric, caffe, torch, raw or
    featurewise."""
    classes: str | None = None
    """Names of a whole model's outputs in order: a,b,c or a file with one a line; unset: those of --data."""
    model: Literal["vgg16", "vgg19", "auto"] = "auto"
    """Stop unless the file holds this model."""
    overwrite: bool = False
    """Replace a folder that an earlier import wrote."""
    reading: Reading = Reading()


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a model for another runtime or a model hub, and check it.

    .onnx, .keras, .h5 and .stablehlo take RGB pictures in 0..255 and give calibrated probabilities.
    """

    model: Run
    """A run or bundle folder."""
    file: File
    """.onnx, .keras, .h5 (a whole Keras model), .stablehlo or .safetensors; with --format hub a new folder."""
    format: Format = "auto"
    """keras-weights: .h5 for keras.applications, a notebook head as its top; torchvision: its names, .safetensors;
    hub: a folder with the model and a model card."""
    half: bool = False
    """ONNX with float16 kernels: half the size."""
    int8: bool = False
    """ONNX with int8 kernels, a scale for each output channel: a quarter of the size."""
    overwrite: bool = False
    """Replace the file, or the folder of an earlier export."""
    no_verify: bool = False
    """Don't run the file in its own runtime, or load the folder again."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Run a file in its own runtime and here; exit with 1 if they differ.

    verify RUN FILE: an exported file against the model it was made from.

    verify FILE: another framework's file against what would be imported, stage by stage.
    """

    model: Run
    """The run or bundle folder that the file was made from, or the only file."""
    file: Annotated[Path | None, tyro.conf.Positional, cli.Alias(metavar="[FILE]")] = None
    """The exported file or hub folder."""
    format: Format = "auto"
    """As in export."""
    dialect: Dialect = "auto"
    """As in inspect, for verify FILE."""
    data: str | None = None
    """Labelled photos to compare on, as for train; unset: noise."""


def main(args: list[str]) -> None:
    """Run the command that the first of `args` names; an export that differs ends with exit code 1."""
    verb, *rest = args or ["--help"]
    if verb in ("-h", "--help"):
        return print(_help())
    if verb not in COMMANDS:
        cli.fail(f"{verb!r} is no command{cli.nearest(verb, COMMANDS)} Expected one of {', '.join(COMMANDS)}.")
    settings, run, examples = COMMANDS[verb]
    summary, *more = inspect.cleandoc(settings.__doc__).split("\n\n")
    explained = [f" {line}" for text in more for line in textwrap.wrap(text, 78)]
    shown = [f"  {PROGRAM} {line}" for line in examples]
    description = "\n".join([summary, "", *explained, *([" "] if explained else []), *shown])  # breaks: before a space
    command = cli.parse(settings, description, rest, f"{PROGRAM} {verb}")
    try:
        run(command)
    except UserError as error:
        cli.fail(error)


def _help() -> str:
    lines = [f"  {verb:10}{str(settings.__doc__).splitlines()[0]}" for verb, (settings, *_) in COMMANDS.items()]
    usage = f"usage: {PROGRAM} COMMAND [OPTIONS]\n\nOther frameworks' VGG weights, in and out.\n"
    return "\n".join([usage, *lines, f"\n{PROGRAM} COMMAND --help has its options, and examples."])


def inspect_file(command: Inspect) -> None:
    """Print the mapping."""
    from weights_convert import convert, readers, tables

    with readers.open_source(command.file) as source:
        tables.plan(convert.plan(source, dialect=command.dialect))


def import_file(command: Import) -> None:
    """Convert and print the mapping."""
    from vgg_flax.console import show_line
    from vgg_flax.settings import check_value
    from weights_convert import convert, mapping, readers, store, tables
    from weights_convert.import_model import preparation
    from weights_convert.rules import TOP_LAYERS

    said = command.reading
    check_value(
        "image-size", said.image_size, said.image_size is None or 32 <= said.image_size <= 1024, "32 to 1024 (pixels)"
    )
    with readers.open_source(command.file) as source:
        source = readers.described(source, said.architecture)
        if said.backbone:
            source = _behind(said.backbone, source, command.model)
        found = convert.plan(source, dialect=said.dialect)
        if command.model not in ("auto", found.model):
            mapping.wrong_model(command.file, found.model, command.model)
        whole = (command.data, command.classes, said.backbone, said.image_size, said.logit, said.head_activations)
        if any(whole) or (command.preprocess and found.dense not in ((), TOP_LAYERS)):
            return _import_model(command, source, found)
        if command.preprocess:
            how = preparation(command.preprocess, found.preprocessing.image_size)
            found = dataclasses.replace(found.prepared(how), why=f"{found.why}; preprocessing as given by --preprocess")
        store.save(found, command.folder, f"{command.file.name} ({found.format})", overwrite=command.overwrite)
    tables.plan(found)
    how = f"vgg-flax train --model {found.model} --weights {typed(command.folder)}"
    show_line(f"{command.folder} written. Train with it: {how}")
    if found.dense:
        show_line("Its head was left out. --classes a,b,... or --data FOLDER imports the model whole.")


def _behind(backbone: str, head: Source, model: str) -> Source:
    from vgg_flax.console import say
    from vgg_flax.network.spec import BACKBONES
    from weights_convert import join, pretrained

    if backbone == "imagenet" and head.dialects[0] in ("torchvision", "timm"):
        raise UserError(
            f"{head.path} is of PyTorch, and imagenet is Keras's weights. Give torchvision's: --backbone FILE."
        )
    spec = BACKBONES["vgg16" if model == "auto" else model]
    return join.join(head, pretrained.load(backbone, spec, say=say))


def _import_model(command: Import, source: Source, found: Plan) -> None:
    from vgg_flax.console import counted, show_line
    from weights_convert import import_model, tables

    said = {key: getattr(command.reading, key) for key in ("image_size", "logit", "head_activations")}
    settings = import_model.Settings(command.classes, command.preprocess, _opened(command.data), **said)
    whole = import_model.import_model(
        source, found, command.folder, settings, tables.scores, overwrite=command.overwrite
    )
    tables.plan(whole.plan, whole=True)
    head = whole.head.spec
    layers = f"{head.pools[0]} of block 5, {counted(len(head.hidden) + 1, 'dense layer')}"
    show_line(f"Head: {layers}. Recipe: {whole.recipe.name}, {whole.chosen}.")
    for note in whole.notes:
        show_line(note)
    how = f"vgg-flax webcam --model {typed(command.folder)}"
    show_line(f"{command.folder} written. Look through it: {how}")


def export_file(command: Export) -> None:
    """Write, then check."""
    from vgg_flax.answers import bundle
    from vgg_flax.console import show_line
    from weights_convert import writers

    name = writers.format_of(command.file, command.format)
    if command.half and command.int8:
        raise UserError("--half and --int8 are both given. Expected one of them, or neither for float32.")
    model = bundle.load(command.model)
    weights = "float16" if command.half else "int8" if command.int8 else "float32"
    writers.write(model, command.file, name, weights=weights, overwrite=command.overwrite)
    files = command.file.iterdir() if command.file.is_dir() else [command.file]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    show_line(f"{command.file} written: {writers.FORMATS[name][1]}, {megabytes:.1f} MB.")
    if not command.no_verify:
        _verify(command.file, model, name)


def verify_file(command: Verify) -> None:
    """Check a file."""
    from vgg_flax.answers import bundle
    from vgg_flax.console import show_line
    from weights_convert import parity, tables, writers
    from weights_convert.tensor import regular_file

    if command.file is None:
        photos = (lambda size: _photos(command.data, size=size)) if command.data else None
        runtime, stages = parity.compare(command.model, photos, command.dialect, show_line)
        tables.stages(command.model, runtime, stages, parity.TOLERANCE)
        if not all(stage.good for stage in stages):
            raise SystemExit(1)
        return
    name = writers.format_of(command.file, command.format)
    if name != "hub":
        regular_file(command.file)
    _verify(command.file, bundle.load(command.model), name, command.data)


def _opened(data: str | None) -> Dataset | None:
    from vgg_flax.data import open_dataset

    return open_dataset(data) if data else None


def _photos(data: str | None, classes: tuple[str, ...] = (), size: int = 224, most: int = 8) -> Any:
    """A few photos, or None for noise."""
    from weights_convert import guess

    dataset = _opened(data)
    return guess.sample(dataset, classes or dataset.classes, size, most)[0] if dataset else None


def _verify(file: Path, model: Any, name: str, data: str | None = None) -> None:
    from weights_convert import guess, tables, verify

    verdict = verify.check(model, file, name, _photos(data, model.classes, model.spec.image_size, guess.PHOTOS))
    tables.verdict(verdict)
    if not verdict.good:
        raise SystemExit(1)


COMMANDS: dict[str, tuple[Any, Callable[[Any], None], tuple[str, ...]]] = {
    "inspect": (Inspect, inspect_file, ("inspect vgg16_weights.h5",)),
    "import": (Import, import_file, ("import vgg16.pth weights/mine", "import model.keras models/old --data photos/")),
    "export": (
        Export,
        export_file,
        ("export runs/train model.onnx", "export runs/train model.onnx --int8", "export runs/train card/ --format hub"),
    ),
    "verify": (Verify, verify_file, ("verify runs/train model.onnx --data photos/", "verify vgg16_weights.h5")),
}
