"""How people prepare pictures for VGG, which a weight file does not say: the recipes by name.

A recipe is a colour order and a scaling; in our terms, whether the first kernel's input channels are flipped, and a
mean and standard deviation in RGB.
"""

from __future__ import annotations

import dataclasses
from fractions import Fraction

from vgg_flax.network.spec import Preprocessing
from weights_convert.rules import CAFFE, TORCH, VGGFACE

Triple = tuple[float, float, float]
Exact = tuple[float | Fraction, float | Fraction, float | Fraction]  # so that what was exported comes back as it was
SCALINGS: dict[str, tuple[Triple, Triple]] = {
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "symmetric": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "caffe": CAFFE,
    "torch": TORCH,
    "vggface": VGGFACE,
    "raw": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
FEATUREWISE = "featurewise"
MEANINGS = {
    "unit": "0..1",
    "symmetric": "-1..1",
    "caffe": "minus ImageNet's mean, as keras.applications.vgg16.preprocess_input does with bgr",
    "torch": "ImageNet's mean and standard deviation, as torchvision does",
    "raw": "0..255",
    FEATUREWISE: "mean 0 and deviation 1 over the photos, as ImageDataGenerator(featurewise_center, ...) does",
}
RECIPES = tuple(f"{order}-{scaling}" for scaling in MEANINGS for order in ("rgb", "bgr"))


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One way to prepare a picture.

    Attributes:
      bgr: the model was fed BGR.
      preprocessing: in our terms.
    """

    name: str
    bgr: bool
    preprocessing: Preprocessing


def recipe(
    name: str,
    image_size: int,
    scale: Exact = (1.0, 1.0, 1.0),
    offset: Exact = (0.0, 0.0, 0.0),
    measured: tuple[Triple, Triple] | None = None,
) -> Recipe:
    """A recipe by name, for a model that itself computes x * scale + offset first, in its own colour order.

    Args:
      measured: mean and standard deviation of the training photos, RGB, for the `featurewise` recipes.
    """
    order, scaling = name.split("-")
    if scaling == FEATUREWISE and measured is None:
        raise ValueError(f"{name} needs the statistics of the training photos")
    mean, std = measured if scaling == FEATUREWISE and measured else SCALINGS[scaling]
    if order == "bgr":
        scale, offset = (scale[2], scale[1], scale[0]), (offset[2], offset[1], offset[0])
    values = ([Fraction(one) for one in four] for four in zip(mean, std, scale, offset, strict=True))
    red, green, blue = ((float(m - o * s / f), float(s / f)) for m, s, f, o in values)
    means, deviations = (red[0], green[0], blue[0]), (red[1], green[1], blue[1])
    return Recipe(name, order == "bgr", Preprocessing(image_size, means, deviations))
