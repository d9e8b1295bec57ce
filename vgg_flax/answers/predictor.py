"""A trained model at work: pictures in, labels with probabilities out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vgg_flax.answers import bundle as bundles
from vgg_flax.answers.judge import Judgement, Verdict
from vgg_flax.console import say
from vgg_flax.data.decode import load_image
from vgg_flax.errors import UserError
from vgg_flax.network.extract import Extractor, batch_size
from vgg_flax.network.model import bind_head, read_stored
from vgg_flax.network.params import Params, flatten
from vgg_flax.network.spec import CUTS, ModelSpec, pooled_columns


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What the model says of one picture.

    Attributes:
      label: the most probable class, whatever the verdict.
      probability: of the label.
      probabilities: float32 `[classes]`, in the order of the classes.
      verdict: `label`; `unsure` of it; or `unlike` the training photos.
      candidates: classes that can't be ruled out at 95 %, most probable first.
      familiarity: 1 and more is like the training photos, see `judge.Judgement`; None where they are not known.
      nearest: names of the training photos that are most alike, nearest first.
    """

    label: str
    probability: float
    probabilities: np.ndarray
    verdict: Verdict = "label"
    candidates: tuple[str, ...] = ()
    familiarity: float | None = None
    nearest: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """The verdict as it is said to a person."""
        if self.verdict == "unlike":
            return "unlike the training photos"
        if self.verdict == "unsure":
            return f"not sure: {' or '.join((self.candidates or (self.label,))[:2])}"
        return self.label


class Predictor:
    """Loads a bundle once and classifies pictures with it.

    Attributes:
      extractor: the bundle's backbone at work.
      head: the head's parameters, on the device.

    Args:
      maps: the extractor also gives the maps of the blocks that the head reads, as `explain` wants them.
    """

    def __init__(
        self,
        bundle: bundles.Bundle,
        name: str = "model",
        engine: str = "auto",
        say: Callable[[str], object] = say,
        maps: bool = False,
    ):
        self.name, self.bundle = name, bundle
        self.classes, self.preprocessing = bundle.classes, bundle.preprocessing
        refuse_infinite(bundle.params, name)
        self._output = CUTS["none"].stored(bundle.spec.head)
        read = [f"block{block}" for block in bundle.spec.head.blocks] if maps else []
        self._average5 = pooled_columns(bundle.spec.backbone, (5,), ("average",))
        self.extractor = Extractor(
            bundle.spec.backbone,
            bundle.params["backbone"],
            bundle.preprocessing,
            engine=engine,
            precision=bundle.spec.precision,
            outputs=tuple(sorted({self._output, "pooled", *read})),
            say=say,
        )
        self.head = jax.device_put(bundle.params["head"])

    @classmethod
    def load(
        cls, path: str | Path, engine: str = "auto", say: Callable[[str], object] = say, maps: bool = False
    ) -> Predictor:
        """From a run folder or a bundle folder. Raises UserError when there is no usable model in it."""
        folder = bundles.find(Path(path))
        name = folder.resolve().parent.name if folder.name == "model" else folder.resolve().name
        return cls(bundles.load(folder), name, engine, say, maps)

    def predict(self, images: np.ndarray) -> list[Prediction]:
        """uint8 RGB `[n, size, size, 3]`, as `preprocess.resize` makes them -> n predictions. Raises as `run`."""
        return self.judge(*self.run(images))

    def judge(self, logits: np.ndarray, averages: np.ndarray) -> list[Prediction]:
        """What is said of pictures with these logits and averages, as `run` gives them."""
        return [self.prediction(one) for one in self.bundle.judge.judge(logits, averages)]

    def predict_file(self, path: str | Path) -> Prediction:
        """A picture file. Raises BadImage."""
        return self.predict(load_image(path, self.preprocessing)[None])[0]

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """uint8 RGB `[n, size, size, 3]`, any n -> float32 `[n, classes]`; each row sums to 1. Raises as `run`."""
        return self.bundle.judge.probabilities(self.run(images)[0])

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The network alone.

        Args:
          images: uint8 RGB `[n, size, size, 3]`, any n.

        Returns:
          (logits: float32 `[n, classes]`, averages of block 5: float32 `[n, channels]`).

        Raises:
          ValueError: any other array.
          UserError: the network's output is not finite.
        """
        size = self.preprocessing.image_size
        if images.dtype != np.uint8 or images.shape[1:] != (size, size, 3):
            raise ValueError(f"images are {images.dtype}{list(images.shape)}, expected uint8[n, {size}, {size}, 3].")
        most = batch_size(size)
        parts = [(np.empty((0, len(self.classes)), np.float32), np.empty((0, len(self._average5)), np.float32))]
        for start in range(0, len(images), most):
            some = images[start : start + most]
            padded = np.resize(some, (_compiled_size(len(some), most), *some.shape[1:]))
            logits, averages = self.answer(self.extractor(padded))
            parts.append((logits[: len(some)], averages[: len(some)]))
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def answer(self, outputs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """The head alone: {output of the extractor: `[n, *shape]`} -> as `run`."""
        logits = np.asarray(_logits(self.bundle.spec, self._output, self.head, outputs[self._output]))
        refuse_infinite({"its output": logits}, self.name)
        return logits, np.asarray(outputs["pooled"])[:, self._average5]

    def prediction(self, judged: Judgement) -> Prediction:
        """The same in names."""
        references = self.bundle.judge.references
        return Prediction(
            self.classes[judged.label],
            judged.probability,
            judged.probabilities,
            judged.verdict,
            tuple(self.classes[i] for i in judged.candidates),
            judged.familiarity,
            tuple(references.names[i] for i in judged.nearest) if references else (),
        )


def refuse_infinite(params: Params, name: str) -> None:
    """Raise UserError where a value is NaN or infinite: such a model would say anything."""
    for path, array in flatten(params).items():
        if not np.isfinite(array).all():
            raise UserError(f"{name}: {path} holds NaN or infinity, expected finite numbers: train or import it again.")


def _compiled_size(count: int, most: int) -> int:
    """The batch that `count` pictures travel in: a power of two, so that any number needs few programs."""
    return min(most, 1 << (count - 1).bit_length())


@jax.jit(static_argnums=(0, 1))
def _logits(spec: ModelSpec, what: str, head: Params, stored: jax.Array) -> jax.Array:
    return bind_head(spec, head)(read_stored(spec, what, {}, stored))


def newest_run(project: Path = Path("runs")) -> Path:
    """The run that finished last. Raises UserError when there is none."""
    finished = [path.parents[1] for path in project.glob(f"*/model/{bundles.RECORD}")]
    if not finished:
        raise UserError(f"no finished run in {project}: train one with `vgg-flax train`, or name one with --model.")
    return max(finished, key=lambda run: (run / "model" / bundles.RECORD).stat().st_mtime)
