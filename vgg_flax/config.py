"""Every setting of a training run, and the one way a command line becomes settings.

Nothing here imports JAX: `--help` and a mistyped option are answered before anything heavy is loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import math
import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar

import tyro

T = TypeVar("T")
Alias = tyro.conf.arg
SPLITS = ("train", "val", "test")


class UserError(Exception):
    """Something the person at the keyboard can mend: one line with what was expected, found, and what to do."""


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How far a random view may stray from the clean picture. Each value is a symmetric maximum."""

    rotation: float = 10.0  # degrees
    shift: float = 0.05  # fraction of the picture's side
    zoom: float = 0.1  # 0.1 means a scale between 0.9 and 1.1
    flip: bool | None = None  # mirror left-right half of the time; unset: yes, except for digits
    brightness: float = 0.1  # fraction of the full range 255
    contrast: float = 0.1  # 0.1 means a factor between 0.9 and 1.1


@dataclasses.dataclass(frozen=True)
class Choice:
    """What validation can choose: the features that the head reads, its peak learning rate, its weight decay."""

    features: Literal["all", "block3", "block4", "block5"]
    lr: float
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a classifier head on ImageNet VGG features, evaluate it, and leave a run folder behind."""

    data: str = "digits"
    """`digits` (built in), a folder with one sub-folder per class (or train/ val/ test/), or `tfds:NAME`."""
    model: Literal["vgg16", "vgg19"] = "vgg16"
    """Backbone."""
    weights: str = "imagenet"
    """`imagenet`, `random`, a weight file, an imported folder, or a finished run."""
    head: Literal["linear", "logreg", "mlp", "notebook"] = "linear"
    """linear: softmax regression by AdamW; logreg: the same by L-BFGS, an iteration an epoch; mlp: one hidden layer;
    notebook: Flatten, Dense 4096, Dense 4096, softmax."""
    features: Literal["auto", "all", "block3", "block4", "block5"] = "auto"
    """Average-pooled block outputs that a linear or mlp head reads; `all` is blocks 3, 4 and 5 side by side;
    `auto` has validation choose for linear and logreg, is `all` for mlp, and block5 where that is trained alone."""
    epochs: int | None = None
    """Passes over the training pictures; unset: 30, for notebook 5, as in the notebook."""
    batch_size: Annotated[int, Alias(aliases=["--batch", "-b"])] = 32
    """Pictures in an optimiser step."""
    image_size: Annotated[int | None, Alias(aliases=["--imgsz"])] = None
    """Side of the square network input in pixels, from 32 up; unset: 224, for digits 64."""
    lr: float | None = None
    """Peak learning rate of AdamW; unset: validation chooses for linear, 1e-3 for mlp, 1e-4 for notebook."""
    weight_decay: float | None = None
    """Decoupled weight decay, kernels only, for logreg L2 regularisation of the mean loss; unset: validation chooses
    for linear and logreg; 1e-2 for the others."""
    warmup: float = 0.1
    """Fraction of all steps in which the learning rate rises from zero; it falls as a cosine afterwards."""
    dropout: float = 0.0
    """Share of hidden units dropped in mlp and notebook heads."""
    unfreeze: Literal["none", "block5", "all"] = "none"
    """Backbone layers trained with the head, at a tenth of its learning rate."""
    views: int = 2
    """Stored views of each training picture: the clean one, and views - 1 random augmentations."""
    cache: Literal["features", "none"] = "features"
    """features: run the frozen layers once a view and keep their outputs; none: augment afresh every step."""
    augment: tyro.conf.OmitArgPrefixes[AugmentConfig] = AugmentConfig()
    """Random views."""
    val_split: float = 0.1
    """Fraction of all pictures kept for validation, where the data has no val split of its own."""
    test_split: float = 0.2
    """Fraction of all pictures kept for the test, where the data has no test split of its own."""
    seed: int = 0
    """Seeds the split, the head's first values, batch order and augmentation."""
    strict: bool = False
    """Stop at the first picture that can't be read, instead of listing it and going on."""
    engine: Literal["auto", "winograd", "xla"] = "auto"
    """Frozen convolutions: our Winograd kernel on a CPU with a compiler, otherwise XLA's own."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Compute type of the backbone; parameters and logits are float32 always."""
    resume: bool = False
    """Go on with the run that --name names, or else with the newest."""
    project: Path = Path("runs")
    """Folder of all runs."""
    name: str | None = None
    """Folder of this run inside the project; unset: train, train2, train3, ..."""

    def __post_init__(self) -> None:
        _check("epochs", self.epochs, self.epochs is None or self.epochs >= 1, "at least 1")
        _check("batch-size", self.batch_size, self.batch_size >= 1, "at least 1")
        size = self.image_size
        _check("image-size", size, size is None or 32 <= size <= 1024, "32 to 1024 (pixels)")
        ok = self.lr is None or (math.isfinite(self.lr) and self.lr > 0)
        _check("lr", self.lr, ok, "a positive number such as 1e-3")
        decay = self.weight_decay
        _check("weight-decay", decay, decay is None or (math.isfinite(decay) and decay >= 0), "0 or more")
        _check("warmup", self.warmup, 0 <= self.warmup < 1, "0 up to, not including, 1")
        _check("dropout", self.dropout, 0 <= self.dropout < 1, "0 up to, not including, 1")
        _check("views", self.views, self.views >= 1, "at least 1")
        _check("val-split", self.val_split, 0 < self.val_split < 1, "a fraction between 0 and 1")
        _check("test-split", self.test_split, 0 < self.test_split < 1, "a fraction between 0 and 1")
        total = self.val_split + self.test_split
        _check("val-split plus --test-split", total, total < 1, "less than 1, so that some photos train")
        _check("seed", self.seed, 0 <= self.seed < 2**32, "0 to 4294967295")
        ok = self.name is None or (re.fullmatch(r"[^/\\\0]+", self.name) is not None and self.name not in (".", ".."))
        _check("name", self.name, ok, "a plain folder name; the folder it lies in is --project")
        for field in dataclasses.fields(self.augment):
            value = getattr(self.augment, field.name)
            limit = 180.0 if field.name == "rotation" else 1.0
            ok = value is None or 0 <= value <= limit
            _check(field.name, value, ok, f"0 to {limit:g}")
        whole = self.unfreeze == "none" and self.cache == "features"
        _check("head", self.head, self.head != "logreg" or whole, "another one with --unfreeze or --cache none")
        ok = self.unfreeze != "block5" or self.features in ("auto", "block5")
        _check("features", self.features, ok, "block5 with --unfreeze block5: the head reads what is trained")
        if self.unfreeze == "all" and self.cache == "features":
            object.__setattr__(self, "cache", "none")  # no layer is frozen, so there is nothing to keep

    @property
    def passes(self) -> int:
        """Number of epochs."""
        return self.epochs or (5 if self.head == "notebook" else 30)

    @property
    def size(self) -> int:
        """Side of the network input in pixels."""
        return self.image_size or (64 if self.data == "digits" else 224)

    def choices(self) -> list[Choice]:
        """What the settings leave open, as all combinations: one when there is nothing to choose."""
        searches = self.head in ("linear", "logreg") and self.unfreeze == "none"
        features = ("block4", "block5", "all", "block3") if searches else ("all",)
        features = ("block5",) if self.unfreeze == "block5" else features
        rates = {"linear": (3e-3, 1e-3, 1e-2), "logreg": (1.0,), "mlp": (1e-3,), "notebook": (1e-4,)}[self.head]
        decays = (1e-2, 1e-3, 1e-1, 1e-4) if self.head == "logreg" else (1e-2, 1e-4, 1.0)
        options = itertools.product(
            features if self.features == "auto" else (self.features,),
            (rates if searches else rates[:1]) if self.lr is None else (self.lr,),
            (decays if searches else decays[:1]) if self.weight_decay is None else (self.weight_decay,),
        )
        return [Choice(*option) for option in options]

    def chosen(self, choice: Choice) -> TrainConfig:
        """The same settings with nothing left open."""
        return dataclasses.replace(self, **dataclasses.asdict(choice))

    def resolved(self) -> TrainConfig:
        """The same settings with every value filled in that the data does not decide."""
        flip = self.augment.flip if self.augment.flip is not None else self.data != "digits"
        return dataclasses.replace(
            self,
            image_size=self.size,
            epochs=self.passes,
            augment=dataclasses.replace(self.augment, flip=flip),
        )


def _check(option: str, found: Any, ok: bool, expected: str) -> None:
    if not ok:
        raise UserError(f"--{option} is {found}, expected {expected}.")


def parse(config: type[T], description: str | None = None, args: list[str] | None = None) -> T:
    """Settings from the command line. A mistake prints one line, names the nearest option, and exits with 2."""
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(config, description=description, args=args, config=(tyro.conf.FlagCreatePairsOff,))
    except UserError as error:
        fail(error)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        fail(_one_line(complaint.getvalue()))


def _one_line(box: str) -> str:
    """tyro's framed message as one line: what is wrong, and the option that was probably meant."""
    text = " ".join(row.strip("│ ") for row in box.splitlines() if not row.startswith(("╭", "╰")))
    message = re.split(r"\s*──+", text)[0].removeprefix("Error parsing ").strip().rstrip(".")
    if wrong := re.match(r"(.+?): no type matching .*?(\w+) could be instantiated from \[(.+?)\]", message):
        message = f"{wrong[1]}: expected {wrong[2]}, found {wrong[3]}"
    typed = re.search(r"Unrecognized options: (--[\w-]+)", message)
    known = re.findall(r"(--[\w-]+)", text.partition("Perhaps you meant:")[2])
    nearest = difflib.get_close_matches(typed[1], known, 1, cutoff=0) if typed else []
    hint = f" Did you mean {nearest[0]}?" if nearest else ""
    return f"{message}.{hint} All options: --help"


def fail(error: object) -> NoReturn:
    """Print one line on standard error and exit with 2."""
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(2)


def cache_dir() -> Path:
    """Folder for downloads, decoded pictures, features and compiled code: VGG_FLAX_CACHE, or the user's own."""
    if chosen := os.environ.get("VGG_FLAX_CACHE"):
        return Path(chosen).expanduser().resolve()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "vgg_flax"
