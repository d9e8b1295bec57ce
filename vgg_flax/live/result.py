"""A frame with what the model says of it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vgg_flax.live.capture import Frame
from vgg_flax.live.progress import Stopwatch
from vgg_flax.network.preprocess import prepare_frame

if TYPE_CHECKING:  # JAX takes seconds to import, and nothing here needs it
    from vgg_flax.answers.predictor import Prediction, Predictor


@dataclasses.dataclass(frozen=True)
class Result:
    """A frame and what the model says of it.

    Attributes:
      classes: names, in the order of the probabilities.
      model: what the model is called.
      inference_ms: milliseconds that the model took.
      latency_ms: milliseconds from the capture of the frame to its label.
      fps: labelled frames per second, lately; 0 at the first.
    """

    frame: Frame
    prediction: Prediction
    classes: Sequence[str]
    model: str
    inference_ms: float
    latency_ms: float
    fps: float

    def summary(self) -> str:
        """Verdict, probability of a plain label, rate and latency in one line."""
        probability = f"{self.prediction.probability:.1%}   " if self.prediction.verdict == "label" else ""
        return f"{self.prediction.words}   {probability}{self.speed()}"

    def speed(self) -> str:
        rate = f"{self.fps:.1f} fps   " if self.fps else ""  # unknown at the first frame
        return f"{rate}{self.latency_ms:.0f} ms"


def label(frame: Frame, predictor: Predictor, watch: Stopwatch) -> Result:
    """Run the model on a frame, as it was captured: never mirrored, cropped or drawn upon."""
    image = prepare_frame(frame.image, predictor.preprocessing)
    watch.lap("prepare")
    prediction = predictor.predict(image[None])[0]
    inference_ms = watch.lap("inference")
    watch.frame_done()
    latency_ms = 1000 * (time.monotonic() - frame.captured)
    return Result(frame, prediction, predictor.classes, predictor.name, inference_ms, latency_ms, watch.fps)
