"""Every setting of every command, in groups, with its check. Options are flat: a name occurs in one group only."""

# ruff: noqa: UP007, UP045
# Optional[X], not X | None, and list, not list[str]: for the latter tyro imports a type checker, a quarter of the time
# that --help takes.
from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar, Union

from vgg_flax.cli import Alias, Positional
from vgg_flax.errors import UserError
from vgg_flax.region import shares

T = TypeVar("T")
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class NetworkSettings:
    """The network."""

    model: Literal["vgg16", "vgg19"] = "vgg16"
    """Backbone."""
    head: Literal["auto", "regression", "linear", "mlp", "notebook"] = "auto"
    """regression: softmax regression fitted to convergence, chosen by cross-validation; linear: the same by AdamW;
    mlp: one hidden layer; notebook: Flatten, Dense 4096, Dense 4096. auto: regression on a frozen backbone,
    else linear."""
    blocks: Literal["auto", "3-5", "4-5", "5"] = "auto"
    """Blocks whose averages and maxima the head reads; auto: cross-validation chooses for regression, 3-5 for linear
    and mlp, 5 where that is trained."""
    unfreeze: Literal["none", "block5", "all"] = "none"
    """Backbone layers trained with the head, at a tenth of its learning rate."""
    dropout: float = 0.0
    """Share of hidden units dropped in mlp and notebook heads."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the backbone; parameters and logits are float32 always."""
    engine: Literal["auto", "winograd", "xla"] = "auto"
    """Frozen convolutions: our Winograd kernel on a CPU with a compiler, otherwise XLA's own."""


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """How the head is fitted."""

    epochs: Optional[int] = None
    """Passes over the training pictures; unset: 30, for notebook 5. For regression the most iterations of the solver;
    unset: 300."""
    batch_size: Annotated[int, Alias(aliases=["--batch", "-b"])] = 32
    """Pictures in an optimiser step of AdamW."""
    lr: Optional[float] = None
    """Peak learning rate of AdamW; unset: 1e-3, for notebook 1e-4."""
    weight_decay: Optional[float] = None
    """Decoupled weight decay of AdamW, kernels only; unset: 1e-2. For regression the strength of its L2 term on the
    mean loss; unset: cross-validation chooses."""
    warmup: float = 0.1
    """Fraction of AdamW's steps in which the learning rate rises from zero; it falls as a cosine afterwards."""


@dataclasses.dataclass(frozen=True)
class FeatureSettings:
    """What is computed of each picture, and kept."""

    views: int = 2
    """Views of each training picture: the clean one, and views - 1 random augmentations."""
    cache: Literal["features", "none"] = "features"
    """features: run the frozen layers once a view and keep their outputs; none: augment afresh every step."""


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """How far a random view may stray from the clean picture. Each value is a symmetric maximum."""

    rotation: float = 15.0
    """Degrees."""
    shift: float = 0.1
    """Fraction of the picture's side."""
    zoom: float = 0.5
    """0.5 means a scale between 0.5 and 1.5."""
    flip: Optional[bool] = None
    """Mirror left-right half of the time; unset: yes, except for digits."""
    brightness: float = 0.25
    """Fraction of the full range."""
    contrast: float = 0.3
    """0.3 means a factor between 0.7 and 1.3."""


@dataclasses.dataclass(frozen=True)
class SplitSettings:
    """Which photos train, validate and test."""

    val_split: float = 0.1
    """Fraction of the photos for validation, where the data has no val folder of its own."""
    test_split: float = 0.2
    """Fraction of the photos for the test, where the data has no test folder of its own."""
    seed: int = 0
    """Seeds splits, folds, first values, batch order and random views."""
    group: Annotated[Optional[str], Alias(metavar="folder|REGEX")] = None
    """What must stay on one side of the split beside copies: `folder`, the first folder inside that of the class
    (patients, scenes, cameras), or a regular expression whose group 1, found in a photo's path, names its group."""
    folds: int = 5
    """Parts of the cross-validation that chooses the regression; each photo is answered by a model without its part."""
    strict: bool = False
    """Stop at the first picture that can't be read, instead of listing it and going on."""


@dataclasses.dataclass(frozen=True)
class AnswerSettings:
    """When the trained model may answer."""

    min_precision: float = 0.95
    """Of the answers given as a plain label, so many should be right; what is less sure is "not sure"."""
    robust: bool = False
    """Measure robust accuracy, too: of the test pictures under ten changes that a camera makes."""


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Train a classifier on your photos: ImageNet VGG features, a new head, an honest evaluation."""

    data: str = "digits"
    """A folder with one sub-folder per class (or train/ val/ test/), a .zip of one, a .csv with `path,label`,
    `tfds:NAME`, or `digits` (built in)."""
    label: Annotated[Optional[str], Alias(metavar="REGEX")] = None
    """For photos in one folder: the class is group 1 of this regular expression, found in the file name; for
    cat.0.jpg it is `(\\w+)[.]`."""
    weights: str = "imagenet"
    """`imagenet`, `random`, a weight file, an imported folder, or a finished run."""
    image_size: Annotated[Union[int, Literal["auto"]], Alias(aliases=["--imgsz"])] = "auto"
    """Side of the network's square input in pixels, from 32 up; auto: 224, or 160 where photos are small, digits 64."""
    region: Annotated[str, Alias(metavar="center|full|x,y,w,h")] = "full"
    """The part of each picture that the model sees, in training and afterwards: all of it, the square in its middle,
    or left, top, width and height as shares of its sides."""
    name: Optional[str] = None
    """Folder of this run inside --project; unset: train, train2, train3, ..."""
    resume: bool = False
    """Go on with the run that --name names, or else with the newest."""
    project: Path = Path("runs")
    """Folder of all runs."""
    tracker: Literal["none", "tensorboard"] = "none"
    """Where the log of the run goes beside metrics.csv; tensorboard: an event file in its folder."""
    network: NetworkSettings = NetworkSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    features: FeatureSettings = FeatureSettings()
    augment: AugmentSettings = AugmentSettings()
    split: SplitSettings = SplitSettings()
    answer: AnswerSettings = AnswerSettings()

    def __post_init__(self) -> None:
        check_train(self)

    @property
    def head(self) -> str:
        """The kind of head, `auto` resolved."""
        if self.network.head != "auto":
            return self.network.head
        frozen = self.network.unfreeze == "none" and self.features.cache == "features"
        return "regression" if frozen else "linear"

    @property
    def stores(self) -> bool:
        """Whether outputs of the frozen layers are kept; there are none in a network that trains whole."""
        return self.features.cache == "features" and self.network.unfreeze != "all"

    @property
    def augmentation(self) -> AugmentSettings:
        """Random views, `flip` resolved: a mirrored 3 is no digit."""
        flip = self.data != "digits" if self.augment.flip is None else self.augment.flip
        return dataclasses.replace(self.augment, flip=flip)


def check_train(settings: TrainSettings) -> None:
    """Every value in its range, and those that exclude each other. Raises UserError."""
    network, optimizer, split = settings.network, settings.optimizer, settings.split
    size, name = settings.image_size, settings.name
    check_value("image-size", size, size == "auto" or 32 <= size <= 1024, "auto, or 32 to 1024 (pixels)")
    check_region(settings.region)
    ok = name is None or (re.fullmatch(r"[^/\\\0]+", name) is not None and name not in (".", ".."))
    check_value("name", name, ok, "a plain folder name; the folder it lies in is --project")
    check_value("epochs", optimizer.epochs, optimizer.epochs is None or optimizer.epochs >= 1, "at least 1")
    check_value("batch-size", optimizer.batch_size, optimizer.batch_size >= 1, "at least 1")
    lr, decay = optimizer.lr, optimizer.weight_decay
    check_value("lr", lr, lr is None or (math.isfinite(lr) and lr > 0), "a positive number such as 1e-3")
    check_value("weight-decay", decay, decay is None or (math.isfinite(decay) and decay >= 0), "0 or more")
    check_value("warmup", optimizer.warmup, 0 <= optimizer.warmup < 1, "0 up to, not including, 1")
    check_value("dropout", network.dropout, 0 <= network.dropout < 1, "0 up to, not including, 1")
    check_value("views", settings.features.views, settings.features.views >= 1, "at least 1")
    check_value("val-split", split.val_split, 0 < split.val_split < 1, "a fraction between 0 and 1")
    check_value("test-split", split.test_split, 0 < split.test_split < 1, "a fraction between 0 and 1")
    total = split.val_split + split.test_split
    check_value("val-split plus --test-split", total, total < 1, "less than 1, so that some photos train")
    check_value("seed", split.seed, 0 <= split.seed < 2**32, "0 to 4294967295")
    precision = settings.answer.min_precision
    there = settings.tracker == "none" or importlib.util.find_spec("tensorboardX") is not None
    check_value("tracker", settings.tracker, there, "none, or first pip install 'vgg_flax[tensorboard]'")
    check_value("folds", split.folds, 2 <= split.folds <= 100, "2 to 100")
    check_value("min-precision", precision, 0 < precision <= 1, "a share above 0, at most 1")
    for field in dataclasses.fields(settings.augment):
        value = getattr(settings.augment, field.name)
        limit = 180.0 if field.name == "rotation" else 1.0
        check_value(field.name, value, value is None or 0 <= value <= limit, f"0 to {limit:g}")
    frozen = network.unfreeze == "none" and settings.features.cache == "features"
    check_value("head", network.head, network.head != "regression" or frozen, "another with --unfreeze or --cache none")
    ok = network.unfreeze != "block5" or network.blocks in ("auto", "5")
    check_value("blocks", network.blocks, ok, "5 with --unfreeze block5: the head reads what is trained")
    ok = network.head != "notebook" or network.blocks in ("auto", "5")
    check_value("blocks", network.blocks, ok, "5 with --head notebook, which flattens it")


@dataclasses.dataclass(frozen=True)
class PredictSettings:
    """Ask a trained model about pictures."""

    model: Annotated[Path, Positional, Alias(metavar="RUN")]
    """A run or bundle folder."""
    sources: Annotated[list, Positional, Alias(metavar="FILES")]
    """Pictures, folders, patterns such as "photos/*.jpg", .zip files, videos; - reads paths from standard input."""
    csv: bool = False
    """Comma-separated values with a header instead of a table; lists in it are JSON."""
    json: bool = False
    """A line of JSON for each picture instead of a table."""
    topk: Annotated[Optional[int], Alias(metavar="N")] = None
    """Show the N most probable classes; unset: one in the table, all in --csv and --json."""
    no_cache: bool = False
    """Leave nothing behind in the cache, and look nothing up there."""

    def __post_init__(self) -> None:
        check_value("topk", self.topk, self.topk is None or self.topk >= 1, "at least 1")
        check_value("csv", "given with --json", not (self.csv and self.json), "one of the two")
        if not self.sources:
            raise UserError("no FILES, expected pictures, folders, or - for paths on standard input.")


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """Measure a trained model on labelled photos that it has not learned from."""

    model: Annotated[Path, Positional, Alias(metavar="RUN")]
    """A run or bundle folder."""
    data: str
    """Labelled photos, as `vgg-flax train --data` takes them; classes are matched by name."""
    label: Optional[str] = None
    """A regular expression; its group 1, found in a file's name, is the class."""
    robust: bool = False
    """Measure robust accuracy, too: under ten changes that a camera makes."""
    partial: bool = False
    """Go on where classes are missing, and leave out photos of classes that the model does not know."""
    name: Optional[str] = None
    """Folder for the results inside --project; unset: evaluate, evaluate2, ..."""
    project: Path = Path("runs")
    """Folder of all runs."""


@dataclasses.dataclass(frozen=True)
class ReportSettings:
    """Write the page of a run again, or compare runs."""

    runs: Annotated[list, Positional, Alias(metavar="RUNS")]
    """Run folders: of one, its report.html is written; more are put side by side."""
    data: Annotated[Optional[str], Alias(metavar="FOLDER")] = None
    """Where the photos are now, if they have moved since the run."""

    def __post_init__(self) -> None:
        if not self.runs:
            raise UserError("no RUNS, expected one run folder, or more to compare them.")


@dataclasses.dataclass(frozen=True)
class CacheSettings:
    """List what is kept between runs: decoded photos, features, weights, compiled programs."""

    prune: Annotated[Optional[str], Alias(metavar="SIZE")] = None
    """Drop stores of photos and features, the least recently used first, until all is at most SIZE, such as 10GB."""


def check_value(option: str, found: Any, ok: bool, expected: str) -> None:
    """Raise UserError unless a value is `ok`."""
    if not ok:
        raise UserError(f"--{option} is {found}, expected {expected}.")


def check_region(region: str) -> None:
    """Raise UserError unless it is one, see `region.shares`."""
    try:
        shares(region)
    except ValueError as error:
        raise UserError(f"--{error}") from None


def to_flat(settings: Any) -> dict[str, Any]:
    """{option: value} of a settings dataclass, groups dissolved."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        flat |= to_flat(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return flat


def from_flat(kind: type[T], flat: dict[str, Any]) -> T:
    """The inverse of `to_flat`; what is missing keeps its default. Raises UserError for an unknown option."""
    left, default = dict(flat), kind()

    def fill(group: Any) -> Any:
        values = {}
        for field in dataclasses.fields(group):
            inner = getattr(group, field.name)
            if dataclasses.is_dataclass(inner):
                values[field.name] = fill(inner)
            elif field.name in left:
                values[field.name] = left.pop(field.name)
        return dataclasses.replace(group, **values)

    settings = fill(default)
    if left:
        raise UserError(f"unknown settings: {', '.join(left)}. Expected some of {', '.join(to_flat(default))}.")
    return settings


def anchored(settings: TrainSettings) -> dict[str, str]:
    """{option: absolute path} of what was named by a path, so that it is found from another folder, too."""
    paths = {}
    for name, words in (("data", ("digits",)), ("weights", ("imagenet", "random"))):
        value = getattr(settings, name)
        start = "tfds:" if value.startswith("tfds:") else ""
        path = value.removeprefix(start)
        if value not in words and (not start or Path(path).is_dir()):
            paths[name] = start + os.path.abspath(path)  # noqa: PTH100  # links stay as they are
    return paths


def nearby(settings: TrainSettings) -> TrainSettings:
    """The same, with paths as one would type them here: relative where they lie below the working folder."""
    here = re.compile("^(tfds:)?" + re.escape(str(Path.cwd() / "_")[:-1]))
    return dataclasses.replace(
        settings, **{name: here.sub(r"\1", path, 1) for name, path in anchored(settings).items()}
    )
