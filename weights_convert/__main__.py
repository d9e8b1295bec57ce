"""`python -m weights_convert inspect FILE | import FILE DIR | export RUN FILE | verify RUN FILE`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vgg_flax.cli import fail, parse
from vgg_flax.errors import UserError

Dialect = Literal[
    "auto",
    "keras",
    "keras-numbered",
    "torchvision",
    "timm",
    "machrisaa",
    "frossard",
    "vgg_flax",
    "onnx-keras",
    "onnx-vgg_flax",
    "onnx-torch",
]


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Show what a weight file holds and how it would be imported. No tensor is read."""

    file: tyro.conf.Positional[Path]
    """Keras .h5 or .keras, ONNX, safetensors, PyTorch .pth, NumPy .npz or .npy."""
    dialect: Dialect = "auto"
    """Whose names and layouts the file has; auto: those that fit the most tensors."""


@dataclasses.dataclass(frozen=True)
class Import:
    """Convert a weight file into a folder that `train.py --weights DIR` takes.

    With --preprocess or --data a fine-tuned Keras or ONNX model comes in whole, its head included, as a bundle that
    `webcam.py --model DIR` takes.
    """

    file: tyro.conf.Positional[Path]
    """Keras .h5 or .keras, ONNX, safetensors, PyTorch .pth, NumPy .npz or .npy."""
    folder: tyro.conf.Positional[Path]
    """Where the converted weights go."""
    model: Literal["vgg16", "vgg19", "auto"] = "auto"
    """Stop unless the file holds this model."""
    dialect: Dialect = "auto"
    """As in inspect."""
    classes: str | None = None
    """Names of a whole model's outputs in order: a,b,c or a file with one a line; unset: folders of --data."""
    preprocess: str | None = None
    """How pictures were prepared for a whole model: rgb- or bgr-, then unit, symmetric, caffe, torch, raw
    or featurewise (mean and deviation of --data)."""
    data: Path | None = None
    """Labelled photos, a folder per class: tries every recipe on a few of them and keeps the best."""
    image_size: int | None = None
    """Side of the pictures that a whole model was trained on; unset: as the file says, or 224."""
    overwrite: bool = False
    """Replace a folder that an earlier import wrote."""


Format = Literal["auto", "onnx", "keras", "stablehlo", "safetensors", "keras-weights", "torchvision", "hub"]


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a trained model for another runtime or a model hub, and check it there.

    .onnx, .keras, .h5 and .stablehlo take RGB pictures in 0..255 and give calibrated probabilities.
    """

    model: tyro.conf.Positional[Path]
    """A run or bundle folder."""
    file: tyro.conf.Positional[Path]
    """.onnx, .keras, .h5 (a whole Keras model), .stablehlo or .safetensors; with --format hub a new folder."""
    format: Format = "auto"
    """keras-weights: .h5 for keras.applications, a notebook head as its top; torchvision: backbone .safetensors with
    its names; hub: a folder with the model and a model card."""
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
    """Run a file in its own runtime and here on the same pictures; exit with 1 if they differ.

    verify RUN FILE: an exported file against the model it was made from. verify FILE: another framework's weight file
    against what would be imported, stage by stage.
    """

    model: tyro.conf.Positional[Path]
    """The run or bundle folder that the file was made from, or the only file."""
    file: tyro.conf.Positional[Path | None] = None
    """The exported file or hub folder."""
    format: Format = "auto"
    """As in export."""
    dialect: Dialect = "auto"
    """As in inspect, for verify FILE."""
    data: Path | None = None
    """Labelled photos to compare on; unset: noise."""


Command = (
    Annotated[Inspect, tyro.conf.subcommand("inspect")]
    | Annotated[Import, tyro.conf.subcommand("import")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Verify, tyro.conf.subcommand("verify")]
)


def main(args: list[str] | None = None) -> None:
    """Run one command; a mistake is one line and exit code 2, an export that differs exit code 1."""
    given: Any = Command
    command: Any = parse(given, description="Other frameworks' VGG weights, in and out.", args=args)
    run = {Inspect: inspect_file, Import: import_file, Export: export_file, Verify: verify_file}[type(command)]
    try:
        run(command)
    except UserError as error:
        fail(error)
    except BrokenPipeError:
        sys.stderr.close()  # `inspect FILE | head` is no error


def inspect_file(command: Inspect) -> None:
    """Print the mapping."""
    from weights_convert import convert, readers, show

    with readers.open_source(command.file) as source:
        show.plan(convert.plan(source, dialect=command.dialect))


def import_file(command: Import) -> None:
    """Convert and print the mapping."""
    from weights_convert import checks, convert, readers, show, store, whole

    with readers.open_source(command.file) as source:
        found = convert.plan(source, dialect=command.dialect)
        if command.model not in ("auto", found.model):
            checks.wrong_model(command.file, found.model, command.model)
        if command.preprocess or command.data or command.classes:
            settings = whole.Settings(command.classes, command.preprocess, command.data, command.image_size)
            whole.import_model(source, found, command.folder, settings, overwrite=command.overwrite)
            return
        origin = f"{command.file.name} ({found.format})"
        store.save(found, command.folder, origin, overwrite=command.overwrite)
    show.plan(found)
    how = f"python train.py --model {found.model} --weights {command.folder}"
    show.line(f"{command.folder} written. Train with it: {how}")
    if source.whole and not found.has_top:
        show.line("Its head was left out. --preprocess NAME or --data FOLDER imports the model whole.")


def export_file(command: Export) -> None:
    """Write, then check."""
    from vgg_flax.answers import bundle
    from weights_convert import show, writers

    name = writers.format_of(command.file, command.format)
    if command.half and command.int8:
        raise UserError("--half and --int8 are both given. Expected one of them, or neither for float32.")
    model = bundle.load(command.model)
    weights = "float16" if command.half else "int8" if command.int8 else "float32"
    writers.write(model, command.file, name, weights=weights, overwrite=command.overwrite)
    files = command.file.iterdir() if command.file.is_dir() else [command.file]
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    show.line(f"{command.file} written: {writers.FORMATS[name][1]}, {megabytes:.1f} MB.")
    if not command.no_verify:
        _verify(command.file, model, name)


def verify_file(command: Verify) -> None:
    """Check a file."""
    from vgg_flax.answers import bundle
    from weights_convert import foreign, show, writers
    from weights_convert.readers.base import regular_file

    if command.file is None:
        runtime, stages = foreign.compare(command.model, _photos(command.data), command.dialect, show.line)
        show.stages(command.model, runtime, stages)
        if not all(stage.good for stage in stages):
            raise SystemExit(1)
        return
    name = writers.format_of(command.file, command.format)
    if name != "hub":
        regular_file(command.file)
    _verify(command.file, bundle.load(command.model), name, command.data)


def _photos(data: Path | None) -> Any:
    """A few photos of 224 pixels, or None for noise."""
    from vgg_flax.data.folder import open_dataset
    from weights_convert import guess

    return guess.sample(data, open_dataset(data).classes, 224, 8)[0] if data else None


def _verify(file: Path, model: Any, name: str, data: Path | None = None) -> None:
    from weights_convert import guess, show, verify

    images = guess.sample(data, model.classes, model.spec.image_size)[0] if data else None
    verdict = verify.check(model, file, name, images)
    show.verdict(verdict)
    if not verdict.good:
        raise SystemExit(1)


if __name__ == "__main__":
    sys.argv[0] = "python -m weights_convert"  # what the usage line calls the program
    main()
