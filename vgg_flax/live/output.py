"""Results in a file: a line of JSON for each frame. What exists is never overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

from vgg_flax.errors import UserError
from vgg_flax.live.result import Result


def check_new(option: str, path: Path) -> None:
    """Raise UserError unless `path` is a new file in an existing folder."""
    if path.exists():
        raise UserError(f"{option} {path} exists already and is left as it is: give a new name.")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: there is no folder {path.parent}.")


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
