"""The settings of `vgg-flax doctor`, checked as those of training are, which looks at the same photos."""

# ruff: noqa: UP007, UP045
# Optional[X], not X | None: see settings.py.
from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal, Optional, Union

from vgg_flax.cli import Alias, Positional
from vgg_flax.settings import SplitSettings, TrainSettings


@dataclasses.dataclass(frozen=True)
class DoctorSettings:
    """Find what is wrong with labelled photos: copies, wrong labels, leaks, outliers, damage. Changes none of them."""

    data: Annotated[str, Positional, Alias(metavar="DATA")]
    """Labelled photos, as `vgg-flax train --data` takes them."""
    label: Annotated[Optional[str], Alias(metavar="REGEX")] = None
    """For photos in one folder: the class is group 1 of this regular expression, found in the file name."""
    group: Annotated[Optional[str], Alias(metavar="folder|REGEX")] = None
    """Photos that belong together, as in `vgg-flax train`: the model that doubts a label has seen none of its group."""
    weights: str = "imagenet"
    """`imagenet`, `random`, a weight file, an imported folder, or a finished run."""
    image_size: Annotated[Union[int, Literal["auto"]], Alias(aliases=["--imgsz"])] = "auto"
    """Side of the network's square input in pixels, from 32 up; auto as in `vgg-flax train`, which shares the work."""
    name: Optional[str] = None
    """Folder for the results inside --project; unset: doctor, doctor2, ..."""
    project: Path = Path("runs")
    """Folder of all runs."""

    def __post_init__(self) -> None:
        _ = self.training

    @property
    def training(self) -> TrainSettings:
        """The same options of training. Raises UserError where a value is out of its range."""
        return TrainSettings(
            data=self.data,
            label=self.label,
            weights=self.weights,
            image_size=self.image_size,
            name=self.name,
            project=self.project,
            split=SplitSettings(group=self.group),
        )
