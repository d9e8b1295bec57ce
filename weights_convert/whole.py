"""A person's fine-tuned Keras model, backbone and head -> a bundle that `webcam.py` uses."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vgg_flax.config import UserError
from vgg_flax.params import Params
from weights_convert.convert import Plan
from weights_convert.head import Head, read_head
from weights_convert.readers.base import Source
from weights_convert.recipes import MEANINGS, RECIPES, Recipe, recipe

if TYPE_CHECKING:
    from vgg_flax.bundle import Bundle

PHOTOS = 64


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the person says about a model, as `import`'s options of the same names."""

    classes: str | None
    preprocess: str | None
    data: Path | None
    image_size: int | None


def import_model(source: Source, plan: Plan, folder: Path, settings: Settings, *, overwrite: bool = False) -> None:
    """Write a bundle: the recipe is the one named, or the one that does best on labelled photos.

    Raises:
      UserError: neither is given, or the head can't be carried over.
    """
    from vgg_flax import bundle
    from weights_convert import show

    if folder.exists() and not overwrite:
        raise UserError(f"{folder} exists. Give another folder, or --overwrite.")
    backbone, head = read(source, plan)
    classes = class_names(settings.classes, settings.data, head.classes)
    size = settings.image_size or head.image_size or 224
    if settings.preprocess:
        how = preparation(settings.preprocess, size, head)
        chosen = "as told by --preprocess"
    elif settings.data:
        scores, photos = score(plan, backbone, head, classes, settings.data, size)
        show.scores(scores, photos)
        tied = sum(score.tied for score in scores) - 1
        chosen = f"best of {len(scores)} on {photos} photos of {settings.data}, {tied} others within chance of it"
        how = scores[0].recipe
    else:
        names = ", ".join(RECIPES)
        raise UserError(
            "a weight file does not say how its pictures were prepared, and a wrong guess gives wrong labels: "
            f"give --data FOLDER with labelled photos, or --preprocess with one of {names}."
        )
    training = {"source": f"{source.path.name} ({source.format})", "recipe": how.name, "recipe_chosen": chosen}
    bundle.save(make_bundle(plan, backbone, head, classes, how, training), folder)
    first = plan.moves["backbone/block1_conv1/kernel"]
    moves = {**plan.moves, first.target: dataclasses.replace(first, flip=how.bgr)}
    mean, std = how.preprocessing.mean, how.preprocessing.std
    show.plan(dataclasses.replace(plan, moves=moves, mean=mean, std=std), whole=True)
    show.line(f"Head: {head.features}, {len(head.hidden) + 1} dense layers. Recipe: {how.name}, {chosen}.")
    show.line(f"{folder} written. Look through it: python webcam.py --model {folder}")


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a recipe does on labelled photos.

    Attributes:
      tied: its accuracy is within two standard errors of the best one's, photo by photo.
    """

    recipe: Recipe
    accuracy: float
    loss: float
    tied: bool


def class_names(text: str | None, data: Path | None, count: int) -> tuple[str, ...]:
    """Names in the order of the outputs: listed with commas, one a line in a file, or the folders of the data.

    Raises:
      UserError: none given, or another number than the model has outputs.
    """
    if text:
        file = Path(text)
        listed = file.read_text("utf-8").splitlines() if file.is_file() else text.split(",")
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
    from vgg_flax.bundle import Bundle
    from vgg_flax.model import BackboneSpec, HeadSpec, ModelSpec

    first = backbone["block1_conv1"]
    if how.bgr:
        backbone = {**backbone, "block1_conv1": {**first, "kernel": np.ascontiguousarray(first["kernel"][:, :, ::-1])}}
    features: Any = head.features
    spec = ModelSpec(
        BackboneSpec(plan.model, plan.blocks),
        HeadSpec(head.classes, features, head.hidden, standardize=False),
        how.preprocessing.image_size,
    )
    reads = head.params["fc1" if head.hidden else "predictions"]["kernel"].shape[0]
    if reads != spec.head_inputs:
        raise UserError(
            f"{plan.path}: the head reads {reads} features; at {spec.image_size} pixels the backbone gives "
            f"{spec.head_inputs}. Give the --image-size it was trained on."
        )
    return Bundle(spec, {"backbone": backbone, "head": head.params}, classes, how.preprocessing, training=training)


def preparation(name: str, image_size: int, head: Head) -> Recipe:
    """The recipe called `name`. Raises UserError with the list of names."""
    if name not in RECIPES:
        meanings = "; ".join(f"{key}: {value}" for key, value in MEANINGS.items())
        raise UserError(f"--preprocess is {name}, expected one of {', '.join(RECIPES)} ({meanings}).")
    return recipe(name, image_size, head.scale, head.offset)


def score(
    plan: Plan, backbone: Params, head: Head, classes: tuple[str, ...], data: Path, image_size: int
) -> tuple[list[Score], int]:
    """Every recipe on a sample of labelled photos, and the number of photos.

    The best comes first: of those that accuracy can't tell apart, the one with the lowest loss.

    Raises:
      UserError: the folders are not the classes, or no photo can be read.
    """
    from vgg_flax.predict import Predictor

    images, labels = sample(data, classes, image_size)
    found: list[tuple[Recipe, np.ndarray, float]] = []
    for name in RECIPES:
        how = recipe(name, image_size, head.scale, head.offset)
        predictor = Predictor(make_bundle(plan, backbone, head, classes, how, {}))
        parts = [predictor.probabilities(images[i : i + 16]) for i in range(0, len(images), 16)]
        probabilities = np.concatenate(parts)
        right = (probabilities.argmax(1) == labels).astype(np.float64)
        loss = float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-7)).mean())
        found.append((how, right, loss))
    best = max((right for _, right, _ in found), key=lambda right: right.mean())
    scores = [Score(how, float(right.mean()), loss, _tied(best - right)) for how, right, loss in found]
    return sorted(scores, key=lambda one: (not one.tied, one.loss)), len(images)


def _tied(difference: np.ndarray) -> bool:
    return bool(difference.mean() <= 2 * difference.std() / len(difference) ** 0.5)


def sample(data: Path, classes: tuple[str, ...], image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 RGB [n, size, size, 3], labels [n]) of up to PHOTOS photos, the classes in turn."""
    from vgg_flax.data.folder import open_dataset
    from vgg_flax.preprocess import BadImage, Preprocessing, decode, resize

    dataset = open_dataset(data)
    if set(dataset.classes) != set(classes):
        folders, names = ", ".join(dataset.classes), ", ".join(classes)
        raise UserError(f"--data {data} has the folders {folders}, the model has the classes {names}.")
    order = np.random.default_rng(0).permutation(len(dataset.labels))
    turns = {label: order[dataset.labels[order] == label] for label in range(len(classes))}
    images, labels = [], []
    for turn in range(max(map(len, turns.values()))):
        for label, indices in turns.items():
            if turn >= len(indices) or len(images) >= PHOTOS:
                continue
            try:
                image = decode(dataset.read(int(indices[turn])))
            except BadImage:
                continue
            images.append(resize(image, Preprocessing(image_size)))
            labels.append(classes.index(dataset.classes[label]))
    if not images:
        raise UserError(f"--data {data}: no photo in it can be read.")
    return np.stack(images), np.asarray(labels)
