"""A person's fine-tuned Keras or ONNX model, backbone and head -> a bundle."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vgg_flax.errors import UserError
from vgg_flax.network.params import Params
from weights_convert import guess, optimiser, store
from weights_convert.convert import Plan
from weights_convert.fold_head import Head, read_head
from weights_convert.recipes import FEATUREWISE, MEANINGS, RECIPES, Recipe, recipe
from weights_convert.tensor import Source

if TYPE_CHECKING:
    from vgg_flax.answers.bundle import Bundle


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the person says about a model, as `import`'s options of the same names."""

    classes: str | None
    preprocess: str | None
    data: Path | None
    image_size: int | None


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import did; `chosen` says for people why this recipe."""

    plan: Plan
    head: Head
    recipe: Recipe
    chosen: str


def import_model(
    source: Source,
    plan: Plan,
    folder: Path,
    settings: Settings,
    show: Callable[[list[guess.Score]], object],
    *,
    overwrite: bool = False,
) -> Imported:
    """Write a bundle: the recipe is the one named, or the one that explains the model best on labelled photos.

    Args:
      show: called with how every recipe does, the best first, where they were tried.

    Raises:
      UserError: neither is given, none of them works, or the head can't be carried over.
    """
    from vgg_flax.answers import bundle

    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists. Give another folder, or --overwrite.")
    backbone, head = read(source, plan)
    classes = class_names(settings.classes, settings.data, head.spec.classes)
    size = settings.image_size or head.image_size or 224
    if settings.preprocess:
        how, chosen = preparation(settings.preprocess, size, head, settings.data), "as given by --preprocess"
    elif settings.data:
        images, labels = guess.sample(settings.data, classes, size)
        measured = guess.statistics(settings.data, size)
        recipes = [recipe(name, size, head.scale, head.offset, measured) for name in RECIPES]
        moments = optimiser.second_moments(source, head.reads) if head.reads else None
        build = functools.partial(make_bundle, plan, backbone, head, classes, training={})
        scores = guess.score(build, recipes, images, labels, moments)
        show(scores)
        how, chosen = _best(source.path, settings.data, scores, classes)
    else:
        names = ", ".join(RECIPES)
        raise UserError(
            "a weight file does not say how its pictures were prepared, and a wrong guess gives wrong labels: "
            f"give --data FOLDER with labelled photos, or --preprocess with one of {names}."
        )
    training = {"source": f"{source.path.name} ({source.format})", "recipe": how.name, "recipe_chosen": chosen}
    whole = make_bundle(plan, backbone, head, classes, how, training)
    with store.whole_folder(folder, store.is_ours, overwrite=overwrite) as new:
        bundle.save(whole, new)
    first = plan.moves["backbone/block1_conv1/kernel"]
    moves = {**plan.moves, first.target: dataclasses.replace(first, flip=how.bgr)}
    prepared = how.preprocessing
    return Imported(dataclasses.replace(plan, moves=moves, mean=prepared.mean, std=prepared.std), head, how, chosen)


def _best(path: Path, data: Path, scores: list[guess.Score], classes: tuple[str, ...]) -> tuple[Recipe, str]:
    """The first recipe and why. Raises UserError where none makes the model better than chance."""
    best, *others = scores
    if not best.works:
        raise UserError(
            f"{path}: under no recipe is the model better than chance on {best.photos} photos of {data}, so none is "
            "chosen. Say with --preprocess how its pictures were prepared; if its outputs come in another order than "
            f"{', '.join(classes[:3])}, give --classes, too."
        )
    by = f"{best.photos} photos of {data}" + (" and the optimiser's state" if best.agreement else "")
    tied = sum(score.tied for score in others)
    return best.recipe, f"best of {len(scores)} by {by}, {tied} others within chance of it"


def class_names(text: str | None, data: Path | None, count: int) -> tuple[str, ...]:
    """Names in the order of the outputs: listed with commas, one a line in a file, or the folders of the data.

    Raises:
      UserError: none given, or another number than the model has outputs.
    """
    if text:
        # Path.is_file raises where a text is too long for a name.
        listed = _lines(Path(text)) if os.path.isfile(text) else text.split(",")  # noqa: PTH113
        names = tuple(name.strip() for name in listed if name.strip())
    elif data:
        from vgg_flax.data.folder import open_dataset

        names = open_dataset(data).classes
    else:
        raise UserError(
            f"the file does not name its {count} classes. Give --classes a,b,... in the order of its outputs."
        )
    if len(names) != count or len(set(names)) != count:
        raise UserError(
            f"--classes names {len(names)} classes ({', '.join(names[:5])}), the model has {count} outputs."
        )
    return names


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {file} can't be read as UTF-8 text ({error}). Save it as UTF-8.") from None


def read(source: Source, plan: Plan) -> tuple[Params, Head]:
    """(backbone as the file has it, in the colour order of its own input; head)."""
    backbone = plan.read("backbone")
    first = backbone["block1_conv1"]
    if plan.table.bgr:
        backbone["block1_conv1"] = {**first, "kernel": np.ascontiguousarray(first["kernel"][:, :, ::-1])}
    return backbone, read_head(source)


def make_bundle(
    plan: Plan, backbone: Params, head: Head, classes: tuple[str, ...], how: Recipe, training: dict[str, Any]
) -> Bundle:
    """Everything together, for one recipe."""
    from vgg_flax.answers.bundle import Bundle
    from vgg_flax.network.spec import BackboneSpec, ModelSpec

    first = backbone["block1_conv1"]
    if how.bgr:
        backbone = {**backbone, "block1_conv1": {**first, "kernel": np.ascontiguousarray(first["kernel"][:, :, ::-1])}}
    spec = ModelSpec(BackboneSpec(plan.model, plan.blocks), head.spec, how.preprocessing.image_size)
    if head.inputs != spec.head_inputs:
        raise UserError(
            f"{plan.path}: the head reads {head.inputs} features; at {spec.image_size} pixels the backbone gives "
            f"{spec.head_inputs}. Give the --image-size it was trained on."
        )
    return Bundle(spec, {"backbone": backbone, "head": head.params}, classes, how.preprocessing, training=training)


def preparation(name: str, image_size: int, head: Head, data: Path | None = None) -> Recipe:
    """The recipe called `name`. Raises UserError with the list of names."""
    if name not in RECIPES:
        meanings = "; ".join(f"{key}: {value}" for key, value in MEANINGS.items())
        raise UserError(f"--preprocess is {name}, expected one of {', '.join(RECIPES)} ({meanings}).")
    measured = None
    if name.endswith(FEATUREWISE):
        if data is None:
            raise UserError(f"--preprocess {name} needs the training photos, to measure them: give --data FOLDER.")
        measured = guess.statistics(data, image_size)
    return recipe(name, image_size, head.scale, head.offset, measured)
