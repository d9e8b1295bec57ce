"""The settings of `vgg-flax webcam`."""

# ruff: noqa: UP045
# Optional[X], not X | None: see settings.py.
from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Annotated, Literal, Optional

from vgg_flax.cli import Alias
from vgg_flax.errors import UserError
from vgg_flax.settings import check_region, check_value


@dataclasses.dataclass(frozen=True)
class WebcamSettings:
    """Label what a camera, a video, a stream or a folder of pictures shows. q, Esc or closing the window quits."""

    model: Annotated[Optional[Path], Alias(aliases=["-m"], metavar="RUN|BUNDLE")] = None
    """A run or bundle folder; unset: the newest finished run in runs/."""
    source: Annotated[str, Alias(aliases=["-s"], metavar="0|FILE|FOLDER|URL|-")] = "0"
    """Camera number, video or picture file, folder of pictures or a pattern such as "photos/*.jpg", URL of a stream or
    of a picture that changes, or - for MJPEG on standard input."""
    list_cameras: bool = False
    """Name the cameras here, and stop."""
    resolution: Annotated[Optional[str], Alias(metavar="WxH")] = None
    """Picture size to ask a camera for, such as 1280x720; unset: its own."""
    fps: Annotated[Optional[float], Alias(metavar="N")] = None
    """Pictures a second to ask a camera for; unset: its own."""
    show: Literal["window", "terminal"] = "window"
    """window, or terminal for a line of text. Where there is no screen it is the terminal."""
    region: Annotated[Optional[str], Alias(metavar="center|full|x,y,w,h")] = None
    """The part of the picture that the model sees, as shares of its sides; unset: as in training. In the window it is
    drawn with the mouse."""
    smooth: Annotated[float, Alias(metavar="SECONDS")] = 0.3
    """Time over which probabilities are averaged for the eye; --json and --csv get those of single pictures."""
    evidence: bool = False
    """Show from the start where the model sees the class."""
    no_mirror: bool = False
    """Don't show a camera's picture as in a mirror. The model never gets it mirrored."""
    save: Annotated[Optional[Path], Alias(metavar="VIDEO")] = None
    """New video of the view: .mp4, .mkv, .webm or .avi. It can be played whatever ends the program."""
    json: Annotated[Optional[Path], Alias(metavar="FILE")] = None
    """New file with a line of JSON for each labelled picture."""
    csv: Annotated[Optional[Path], Alias(metavar="FILE")] = None
    """The same with comma-separated values and a header."""
    max_frames: Annotated[Optional[int], Alias(metavar="N")] = None
    """Stop after so many labelled pictures."""
    project: Path = Path("runs")
    """Folder of all runs; what the keys s and r keep goes into live/ inside it."""

    @property
    def size(self) -> Optional[tuple[int, int]]:
        """The resolution: (width, height)."""
        if self.resolution is None:
            return None
        width, height = self.resolution.split("x")
        return int(width), int(height)

    def __post_init__(self) -> None:
        check_value("max-frames", self.max_frames, self.max_frames is None or self.max_frames >= 1, "at least 1")
        ok = math.isfinite(self.smooth) and 0 <= self.smooth <= 10
        check_value("smooth", self.smooth, ok, "0 to 10 seconds")
        ok = self.fps is None or (math.isfinite(self.fps) and 0 < self.fps <= 1000)
        check_value("fps", self.fps, ok, "a number above 0, at most 1000")
        ok = self.resolution is None or re.fullmatch(r"[1-9]\d{1,4}x[1-9]\d{1,4}", self.resolution) is not None
        check_value("resolution", self.resolution, ok, "WIDTHxHEIGHT in pixels, such as 1280x720")
        check_region("full" if self.region is None else self.region)
        files = [path.absolute() for path in (self.save, self.json, self.csv) if path is not None]
        if len({*files}) < len(files):
            raise UserError("--save, --json and --csv name the same file, expected one for each.")
