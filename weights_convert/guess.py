"""Which recipe a fine-tuned model was trained with.

Where the file has its optimiser's state, that leaves a few, see `optimiser`. Between those, or all, labelled photos
decide: the evidence is the negative log likelihood of the labels, compared photo by photo, as accuracy ignores how
sure the model is. The logits of each recipe are first divided by the temperature that suits them best: an overconfident
model would otherwise look better under any recipe that flattens its answers. A head on a frozen backbone can
work as well or better under ImageNet's own recipe than under the one of its training, so what is within chance is
named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vgg_flax.errors import BadImage, UserError
from vgg_flax.network.spec import Preprocessing
from weights_convert import optimiser
from weights_convert.recipes import Recipe, Triple

if TYPE_CHECKING:
    from vgg_flax.answers.bundle import Bundle
    from vgg_flax.data.dataset import Dataset

FIRST, PHOTOS, BATCH = 64, 256, 16
MEASURED = 2000  # photos for the statistics of `featurewise`
TEMPERATURES = np.geomspace(0.05, 5000, 101)
CHANCE = 0.01  # probability below which being right so often is no chance


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a recipe explains a model.

    Attributes:
      loss: negative log likelihood of the labels, a photo, at the best temperature.
      photos: how many were looked at; a recipe that clearly fits worse on the first ones is not tried on more.
      agreement: of its features with the optimiser's state, -1 to 1, or None where that says nothing.
      works: the model is better than chance.
      tied: the best one, or no worse than chance makes it: within two standard errors, photo by photo.
    """

    recipe: Recipe
    accuracy: float
    loss: float
    photos: int
    agreement: float | None
    works: bool
    tied: bool


def score(
    build: Callable[[Recipe], Bundle],
    recipes: list[Recipe],
    images: np.ndarray,
    labels: np.ndarray,
    moments: np.ndarray | None = None,
) -> list[Score]:
    """Every recipe on labelled photos, the likeliest first.

    Args:
      build: the whole model for one recipe.
      images: uint8 RGB [n, size, size, 3].
      labels: [n], indices of the model's classes.
      moments: of `optimiser.second_moments`.
    """
    first = min(FIRST, len(labels))
    logits, energies = map(list, zip(*(_look(build(recipe), images[:first]) for recipe in recipes), strict=True))
    working = [better_than_chance(one.argmax(1) == labels[:first], labels[:first]) for one in logits]
    race = np.flatnonzero(working) if any(working) else np.arange(len(recipes))
    agreements: Sequence[float | None] = [None] * len(recipes)
    if moments is not None:
        channels = optimiser.by_channel(moments, energies[0].size)
        agreements = found = [optimiser.agreement(channels, energy) for energy in energies]
        race = race[optimiser.near([found[i] for i in race])]
    race = race[_tied([logits[i] for i in race], labels)]
    if len(race) > 1 and first < len(labels):
        for i in race:
            logits[i] = np.concatenate([logits[i], _look(build(recipes[i]), images[first:])[0]])
        race = race[_tied([logits[i] for i in race], labels)]
    scores = [_score(*each, i in race, labels) for i, each in enumerate(zip(recipes, logits, agreements, strict=True))]
    return sorted(scores, key=_standing)


def _standing(score: Score) -> tuple[float, ...]:
    """The least is the likeliest; of the tied, which saw the same photos, the one of the least loss."""
    fits = 0.0 if score.tied else -(score.agreement or 0.0)
    return (not score.works, not score.tied, fits, -score.photos, score.loss)


def _score(recipe: Recipe, logits: np.ndarray, agreement: float | None, tied: bool, labels: np.ndarray) -> Score:
    seen = labels[: len(logits)]
    right, loss = logits.argmax(1) == seen, losses(logits, seen).mean()
    works = better_than_chance(right, seen)
    return Score(recipe, float(right.mean()), float(loss), len(seen), agreement, works, tied)


def better_than_chance(right: np.ndarray, labels: np.ndarray) -> bool:
    """A model that always names the largest class would rarely be right as often. Source: the binomial test."""
    from scipy.stats import binomtest

    share = np.bincount(labels).max() / len(labels)
    return bool(binomtest(int(right.sum()), len(labels), share, alternative="greater").pvalue <= CHANCE)


def losses(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Negative log likelihood of each label, [n], for logits [n, classes] at the temperature that makes it least."""
    from scipy.special import log_softmax

    scaled = logits.astype(np.float64) / TEMPERATURES[:, None, None]
    each = -log_softmax(scaled, axis=2)[:, np.arange(len(labels)), labels]
    return each[each.mean(1).argmin()]


def _tied(logits: list[np.ndarray], labels: np.ndarray) -> list[bool]:
    each = [losses(one, labels[: len(one)]) for one in logits]
    best = min(each, key=lambda one: one.mean())
    return [within_chance(one - best) for one in each]


def within_chance(difference: np.ndarray) -> bool:
    """Paired differences whose mean is less than two standard errors above zero."""
    return bool(difference.mean() <= 2 * difference.std() / len(difference) ** 0.5)


def _look(bundle: Bundle, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 RGB [n, size, size, 3] -> (logits, float32 [n, classes]; the channels' mean squares, [channels])."""
    import jax

    from vgg_flax.network.extract import Extractor
    from vgg_flax.network.model import bind_head, read_stored
    from vgg_flax.network.spec import CUTS

    spec, what = bundle.spec, CUTS["none"].stored(bundle.spec.head)
    extract = Extractor(
        spec.backbone, bundle.params["backbone"], bundle.preprocessing, outputs=(what,), say=lambda line: None
    )
    read = jax.jit(lambda stored: read_stored(spec, what, {}, stored))
    classify = jax.jit(lambda params, rows: bind_head(spec, params)(rows))
    params, channels = jax.device_put(bundle.params["head"]), spec.backbone.blocks[4][-1]
    logits, energy = [], np.zeros(channels)
    for i in range(0, len(images), BATCH):
        rows = read(extract(images[i : i + BATCH])[what])
        logits.append(np.asarray(classify(params, rows)))
        energy += optimiser.by_channel(np.square(rows, dtype=np.float64), channels) / len(images)
    return np.concatenate(logits), energy


def pictures(data: Dataset, order: Iterable[int], image_size: int) -> Iterator[tuple[int, np.ndarray]]:
    """(index, uint8 RGB [size, size, 3]) of the photos in this order that can be read."""
    from vgg_flax.data.decode import decode
    from vgg_flax.network.preprocess import resize

    for i in order:
        with contextlib.suppress(BadImage):
            yield i, resize(decode(data.read(i)), Preprocessing(image_size))


def sample(
    data: Dataset, classes: tuple[str, ...], image_size: int, most: int = PHOTOS
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(uint8 RGB [n, size, size, 3], labels [n], names [n]) of up to `most` photos, the classes in turn.

    Raises:
      UserError: the data has other classes, or no photo can be read.
    """
    if set(data.classes) != set(classes):
        found, names = ", ".join(data.classes), ", ".join(classes)
        raise UserError(f"--data {data.source} has the classes {found}, the model has {names}. Rename its folders.")
    shuffled = np.random.default_rng(0).permutation(len(data.labels))
    turns = (shuffled[data.labels[shuffled] == label].tolist() for label in range(len(classes)))
    order = (i for turn in itertools.zip_longest(*turns) for i in turn if i is not None)
    found = list(itertools.islice(pictures(data, order, image_size), most))
    if not found:
        raise UserError(f"--data {data.source}: no photo in it can be read.")
    labels = [classes.index(data.classes[data.labels[i]]) for i, _ in found]
    return np.stack([image for _, image in found]), np.asarray(labels), [data.names[i] for i, _ in found]


def statistics(data: Dataset, image_size: int) -> tuple[Triple, Triple]:
    """(mean, standard deviation) over all pixels of up to 2000 photos, each channel for itself, RGB, in 0..255.

    What `ImageDataGenerator(featurewise_center=True, featurewise_std_normalization=True).fit` measures.
    """
    total, squares, count = np.zeros(3), np.zeros(3), 0
    order = np.random.default_rng(1).permutation(len(data.labels))[:MEASURED].tolist()
    for _, image in pictures(data, order, image_size):
        pixels = image.reshape(-1, 3).astype(np.uint32)
        total += pixels.sum(0)
        squares += np.square(pixels).sum(0, dtype=np.uint64)
        count += len(pixels)
    if not count:
        raise UserError(f"--data {data.source}: no photo in it can be read.")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1.0))
    return (float(mean[0]), float(mean[1]), float(mean[2])), (float(std[0]), float(std[1]), float(std[2]))
