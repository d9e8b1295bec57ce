"""Results in files: an annotated video, and a line of JSON for each frame. What exists is never overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from vgg_flax.errors import UserError
from vgg_flax.live.overlay import compose, letterbox
from vgg_flax.live.result import Result

LONGEST_GAP = 3.0  # seconds
CODECS = {".mp4": "mp4v", ".webm": "VP80", ".avi": "MJPG"}  # each of them is in every opencv-python wheel


def check_new(option: str, path: Path) -> None:
    """Raise UserError unless `path` is a new file in an existing folder."""
    if path.exists():
        raise UserError(f"{option} {path} exists already and is left as it is: give a new name.")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}.")


class Recording:
    """A video with a constant frame rate and a fixed size, which the first view sets.

    A live source is uneven, so a view is repeated or left out as its time demands; a longer gap, as a pause or a lost
    signal leaves, is cut. The file is made when the first view comes.

    Raises:
      UserError: the file exists, has an ending that is no video's, or can't be written.
    """

    def __init__(self, path: Path, fps: float):
        check_new("--save", path)
        if path.suffix.lower() not in CODECS:
            raise UserError(f"--save {path}: expected a name that ends in {', '.join(CODECS)}.")
        self.path = path
        self.frames = 0
        self._fps = fps
        self._shift = 0  # frames cut out so far
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)

    def add(self, result: Result) -> None:
        self.add_view(compose(result), result.frame.time_s)

    def add_view(self, view: np.ndarray, time_s: float) -> None:
        """Append uint8 BGR `[height, width, 3]`, seen `time_s` seconds after the start of the source."""
        if self._writer is None:
            self._open(view)
            self._shift = round(time_s * self._fps)
        missing = round(time_s * self._fps) - self._shift + 1 - self.frames
        if missing > LONGEST_GAP * self._fps:
            self._shift += missing - 1
            missing = 1
        if missing > 0 and (view.shape[1], view.shape[0]) != self._size:
            view = letterbox(view, *self._size)
        for _ in range(missing):
            # OpenCV 4 answers None, OpenCV 5 whether it worked.
            if self._writer is not None and self._writer.write(view) is False:
                raise UserError(f"--save {self.path}: writing failed after {self.frames} frames. Is the disk full?")
            self.frames += 1

    def _open(self, view: np.ndarray) -> None:
        check_new("--save", self.path)  # again: loading the model took a while
        self._size = (view.shape[1], view.shape[0])
        codec = cv2.VideoWriter.fourcc(*CODECS[self.path.suffix.lower()])
        self._writer = cv2.VideoWriter(str(self.path), codec, self._fps, self._size)
        if not self._writer.isOpened():
            raise UserError(f"--save {self.path}: this OpenCV can't write such a file here.")

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()

    def __str__(self) -> str:
        return f"{self.path} ({self.frames} frames)"


class JsonLines:
    """One JSON object a line for each labelled frame, on disk as soon as it is known."""

    def __init__(self, path: Path):
        check_new("--json", path)
        self.path = path
        self.frames = 0
        self._file: BinaryIO | None = None

    def add(self, result: Result) -> None:
        frame, prediction = result.frame, result.prediction
        # Seven decimals hold a float32 near 1 and keep the lines readable.
        probabilities = (round(float(value), 7) for value in prediction.probabilities)
        record = {
            "frame": frame.index,
            "time_s": round(frame.time_s, 4),
            "verdict": prediction.verdict,
            "label": prediction.label,
            "probability": round(prediction.probability, 7),
            "probabilities": dict(zip(result.classes, probabilities, strict=True)),
            "inference_ms": round(result.inference_ms, 3),
        }
        if frame.file is not None:
            record["file"] = frame.file
        try:
            self._append(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            raise UserError(f"--json {self.path}: {error.strerror}, after {self.frames} lines.") from None
        self.frames += 1

    def _append(self, line: bytes) -> None:
        if self._file is None:
            check_new("--json", self.path)  # again: loading the model took a while
            self._file = self.path.open("xb", buffering=0)
        self._file.write(line)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def __str__(self) -> str:
        return f"{self.path} ({self.frames} lines)"
