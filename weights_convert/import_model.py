"""A person's fine-tuned Keras or ONNX model, backbone and head -> a bundle."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vgg_flax.console import counted
from vgg_flax.errors import UserError
from vgg_flax.network.params import Params
from weights_convert import guess, optimiser, store
from weights_convert.convert import Plan
from weights_convert.fold_head import Head, Settings, read_head
from weights_convert.pixels import Inside
from weights_convert.recipes import FEATUREWISE, MEANINGS, RECIPES, Recipe, recipe
from weights_convert.tensor import Source, printable

if TYPE_CHECKING:
    from vgg_flax.answers.bundle import Bundle
    from vgg_flax.data.dataset import Dataset

KNOWN = 1000  # photos of --data that an imported model is measured on, and knows


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import did; `chosen` says for people why this recipe, `notes` what else they should know."""

    plan: Plan
    head: Head
    recipe: Recipe
    chosen: str
    notes: tuple[str, ...] = ()


def import_model(
    source: Source,
    plan: Plan,
    folder: Path,
    settings: Settings,
    show: Callable[[list[guess.Score]], object],
    *,
    overwrite: bool = False,
) -> Imported:
    """Write a bundle: the recipe is in the file, or the one named, or explains the model best on labelled photos.

    Args:
      show: called with how every recipe does, the best first, where they were tried.

    Raises:
      UserError: none of these, none works, or the head can't be carried over.
    """
    from vgg_flax.answers import bundle

    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists. Give another folder, or --overwrite.")
    backbone, head = read(source, plan, settings)
    classes = class_names(settings.classes, settings.data, head.spec.classes)
    how, chosen = _choose(source, plan, backbone, head, classes, settings, show)
    training = {"source": f"{source.path.name} ({source.format})", "recipe": how.name, "recipe_chosen": chosen}
    whole = make_bundle(plan, backbone, head, classes, how, training)
    if settings.data:
        whole = judged(whole, settings.data)
    with store.whole_folder(folder, store.is_ours, overwrite=overwrite) as new:
        bundle.save(whole, new)
    return Imported(plan.prepared(how), head, how, chosen, tuple(_notes(head, settings)))


def judged(whole: Bundle, data: Dataset) -> Bundle:
    """The same, with thresholds measured on labelled photos, which its judge then knows.

    Its temperature stays 1, so that its probabilities are those of the framework that it comes from. It may have
    learned from the very photos, and then the thresholds are too low.
    """
    from vgg_flax.answers.judge import calibrate, with_references
    from vgg_flax.answers.predictor import Predictor

    images, labels, names = guess.sample(data, whole.classes, whole.spec.image_size, KNOWN)
    logits, averages = Predictor(whole, say=lambda line: None).run(images)
    judge = calibrate(logits, labels, whole.judge.min_precision, temperature=1.0)
    return dataclasses.replace(whole, judge=with_references(judge, averages, labels, names))


def _choose(
    source: Source,
    plan: Plan,
    backbone: Params,
    head: Head,
    classes: tuple[str, ...],
    settings: Settings,
    show: Callable[[list[guess.Score]], object],
) -> tuple[Recipe, str]:
    """(recipe, why)."""
    size = settings.image_size or head.image_size or 224
    constants = head.inside.of_input
    if settings.preprocess:
        return preparation(settings.preprocess, size, head, settings.data), "as given by --preprocess"
    if head.inside.scales and (head.inside.colours or not settings.data):
        order, steps = head.inside.colours or "rgb", ", ".join(map(printable, head.inside.steps))
        known = "" if head.inside.colours else "; RGB is assumed, for photos of cv2.imread give --preprocess bgr-raw"
        return recipe(f"{order}-raw", size, *constants), f"the model prepares pictures itself, by {steps}{known}"
    if not settings.data:
        names = ", ".join(RECIPES)
        raise UserError(
            "a weight file does not say how its pictures were prepared, and a wrong guess gives wrong labels: "
            f"give --data FOLDER with labelled photos, or --preprocess with one of {names}."
        )
    images, labels, _ = guess.sample(settings.data, classes, size)
    measured = guess.statistics(settings.data, size)
    recipes = [recipe(name, size, *constants, measured) for name in RECIPES]
    moments = optimiser.second_moments(source, head.reads) if head.reads else None
    build = functools.partial(make_bundle, plan, backbone, head, classes, training={})
    scores = guess.score(build, recipes, images, labels, moments)
    show(scores)
    return _best(source.path, settings.data, scores, classes, raw=head.inside.scales)


def _notes(head: Head, settings: Settings) -> Iterator[str]:
    inside = head.inside
    for layer in inside.skipped:
        yield f"warning: {layer} holds code and was not run: --preprocess {settings.preprocess} stands for it."
    if settings.preprocess and inside.scales and not settings.preprocess.endswith("-raw"):
        steps = ", ".join(map(printable, inside.steps))
        yield f"warning: the model also prepares pictures itself, by {steps}, which expects raw pixels: rgb-raw."
    if inside.resized:
        size, method = inside.resized
        yield f"The model resizes to {size} pixels ({method}); here pictures are resized by area, or cubic to enlarge."
    if head.pool:
        side, pooled = (f"{side}x{side}" for side in head.pool)
        yield f"Average pools that make {pooled} places of {side}, as torchvision's do, are in the first dense layer."
    if settings.image_size and head.image_size not in (None, settings.image_size):
        yield f"warning: the file declares pictures of {head.image_size} pixels, --image-size {settings.image_size}."


def _best(
    path: Path, data: Dataset, scores: list[guess.Score], classes: tuple[str, ...], *, raw: bool
) -> tuple[Recipe, str]:
    """The first recipe and why. Raises UserError where none makes the model better than chance.

    Args:
      raw: the model scales pixels by itself, so that it was trained on raw ones, whatever fits a few photos better.
    """
    best = next(score for score in scores if not raw or score.recipe.name.endswith("-raw"))
    by = f"{best.photos} photos of {data.source}"
    if not best.works:
        raise UserError(
            f"{path}: under no recipe is the model better than chance on {by}, so none is chosen. Say how its pictures "
            "were prepared with --preprocess; if its outputs come in another order than "
            f"{', '.join(classes[:3])}, give --classes, too."
        )
    by += " and the optimiser's state" if best.agreement else ""
    tied = sum(score.tied for score in scores if score is not best)
    if raw:
        return best.recipe, f"raw pixels, as the model scales by itself; by {by}, {tied} others fit as well or better"
    return best.recipe, f"best of {len(scores)} by {by}, {tied} others within chance of it"


def class_names(text: str | None, data: Dataset | None, count: int) -> tuple[str, ...]:
    """Names in the order of the outputs: listed with commas, one a line in a file, or those of the data.

    Raises:
      UserError: none given, or another number than the model has outputs.
    """
    if text:
        there = os.path.isfile(text)  # noqa: PTH113  # Path.is_file raises where a text is too long for a name.
        listed = _lines(Path(text)) if there else text.split(",")
        names = tuple(stripped for name in listed if (stripped := name.strip("\ufeff \t\r\n")))
        looks = Path(text).suffix in (".txt", ".csv", ".names", ".labels") or "/" in text
        if not there and len(listed) == 1 != count and looks:
            raise UserError(f"--classes {text}: there is no such file. Expected a file with a name a line, or a,b,...")
    elif data:
        names = data.classes
    else:
        raise UserError(
            f"the file does not name its {count} classes. Give --classes a,b,... in the order of its outputs."
        )
    option = "--classes" if text else "--data"
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{option} names {twice} twice. Expected a name of its own for each of the {count} outputs.")
    if len(names) != count:
        some = f"{counted(len(names), 'class', 'classes')} ({', '.join(names[:5])})"
        raise UserError(
            f"{option} names {some}, the model has {counted(count, 'output')}. Expected a name each, in its order."
        )
    return names


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--classes {file} can't be read as UTF-8 text ({error}). Save it as UTF-8.") from None


def read(source: Source, plan: Plan, said: Settings | None = None) -> tuple[Params, Head]:
    """(backbone as the file has it, in the colour order of its own input; head)."""
    head = read_head(plan.source, said)
    backbone = plan.read()
    first = backbone["block1_conv1"]
    kernel = first["kernel"][:, :, ::-1] if plan.bgr else first["kernel"]
    kernel = kernel[:, :, np.argsort(head.inside.order)]  # the model's own change of the order
    backbone["block1_conv1"] = {**first, "kernel": np.ascontiguousarray(kernel)}
    return backbone, head


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


def preparation(name: str, image_size: int, head: Head | None = None, data: Dataset | None = None) -> Recipe:
    """The recipe called `name`. Raises UserError with the list of names."""
    if name not in (*RECIPES, *(f"{order}-vggface" for order in ("rgb", "bgr"))):
        meanings = "; ".join(f"{key}: {value}" for key, value in MEANINGS.items())
        raise UserError(f"--preprocess is {name}, expected one of {', '.join(RECIPES)} ({meanings}).")
    measured = None
    if name.endswith(FEATUREWISE):
        if data is None:
            raise UserError(f"--preprocess {name} needs the training photos, to measure them: give --data FOLDER.")
        measured = guess.statistics(data, image_size)
    return recipe(name, image_size, *(head.inside if head else Inside()).of_input, measured)
