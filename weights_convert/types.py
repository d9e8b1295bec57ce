"""What `--weights` gives, and the error where there is nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from vgg_flax.errors import UserError

if TYPE_CHECKING:  # the types of a command do not wait for NumPy
    from vgg_flax.network.params import Params
    from vgg_flax.network.spec import Preprocessing

Say = Callable[[str], object]


class WeightsUnavailable(UserError):
    """ImageNet weights are unavailable here: no network, and no file copied by hand."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Trained convolutions.

    Attributes:
      backbone: {layer: {"kernel": [3, 3, in, out], "bias": [out]}}, float32, for RGB input.
      preprocessing: mean and std that they expect; the image size is the caller's to choose.
      source: where they come from, for people.
      random: not trained at all.
    """

    backbone: Params
    preprocessing: Preprocessing
    source: str
    random: bool = False
