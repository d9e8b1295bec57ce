"""Where in a picture a model sees what it says: heat maps from the gradient of one logit through the head.

Grad-CAM weighs the channels of block 5 by the mean gradient of the logit: Selvaraju et al., arXiv:1610.02391. Where the
head is linear there is more: gradient times activation is what each place adds to the logit. For averages that is the
class activation map of Zhou et al., arXiv:1512.04150; a maximum counts where it lies, and equal maxima share it. Summed
over places and blocks, with the head's constant, it is the logit itself.

The gradient goes through the head alone. The maps come from the frozen layers, whose kernel needs none.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from vgg_flax.answers.bundle import Bundle
from vgg_flax.network.extract import Extractor, batch_size
from vgg_flax.network.model import bind_head, read_blocks
from vgg_flax.network.params import Params
from vgg_flax.network.spec import ModelSpec

COLUMNS = ("targets", "logits", "constants", "grad_cam")
SMOOTHED = 0.06  # standard deviation of what is shown of one place, as a share of the picture's side


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What speaks for one class in each of n pictures.

    Attributes:
      targets: int `[n]`, the classes that are explained.
      logits: float32 `[n]`, theirs.
      constants: float32 `[n]`: what the logit of a linear head would be if all its features were zero; of another
        head, what its first-order expansion leaves over.
      grad_cam: float32 `[n, h, w]`, 0 and more, on the grid of the deepest block that the head reads.
      parts: {`block3`, ...: float32 `[n, h, w]`}: what each place of each block that the head reads adds to the
        logit; exact where the head has no hidden layer, gradient times activation otherwise.
      linear: whether the head has no hidden layer.
    """

    targets: np.ndarray
    logits: np.ndarray
    constants: np.ndarray
    grad_cam: np.ndarray
    parts: dict[str, np.ndarray]
    linear: bool

    def by_block(self) -> dict[str, np.ndarray]:
        """{block: what it adds to the logit in all, float32 `[n]`}."""
        return {name: part.sum((1, 2)) for name, part in self.parts.items()}

    def shown(self, side: int) -> np.ndarray:
        """The map to show a person, float32 `[n, side, side]`: `heat` of a linear head, Grad-CAM of another."""
        if self.linear:
            return self.heat(side)
        return np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in self.grad_cam])

    def heat(self, side: int) -> np.ndarray:
        """All parts in one picture, smoothed for the eye: float32 `[n, side, side]`; below 0 speaks against the class.

        A place of a block covers its square of the picture, so the sum over pixels stays what it was, but for what
        smoothing takes across the border.
        """
        heat = np.zeros((len(self.targets), side, side), np.float32)
        for part in self.parts.values():
            scale = part.shape[1] * part.shape[2] / side**2
            for row, places in zip(heat, part, strict=True):
                row += scale * cv2.resize(places, (side, side), interpolation=cv2.INTER_NEAREST)
        for row in heat:
            row[:] = cv2.GaussianBlur(row, (0, 0), SMOOTHED * side, borderType=cv2.BORDER_REFLECT)
        return heat


class Explainer:
    """A model's frozen layers and its head, ready to explain.

    Attributes:
      blocks: names of the blocks that the head reads.
    """

    def __init__(self, bundle: Bundle, engine: str = "auto"):
        self.spec = bundle.spec
        self.blocks = tuple(f"block{i}" for i in bundle.spec.head.blocks)
        self._extractor = Extractor(
            bundle.spec.backbone,
            bundle.params["backbone"],
            bundle.preprocessing,
            engine=engine,
            precision=bundle.spec.precision,
            outputs=self.blocks,
            say=lambda _: None,  # whoever asks for heat maps was told before which engine it is
        )
        self._head = jax.device_put(bundle.params["head"])

    def explain(self, images: np.ndarray, *targets: np.ndarray) -> list[Explanation]:
        """What speaks for a class in each picture, and with more targets for others: an explanation for each target.

        Args:
          images: uint8 RGB `[n, size, size, 3]`, at least one.
          targets: int `[n]` each, a class a picture.
        """
        size, found = min(batch_size(self.spec.image_size), len(images)), [[] for _ in targets]
        for start in range(0, len(images), size):
            rows = np.resize(np.arange(start, min(start + size, len(images))), size)  # one shape compiles
            maps = self._extractor(images[rows])
            for parts, classes in zip(found, targets, strict=True):
                parts.append(explain(self.spec, self._head, maps, classes[rows]))
        return [_joined(parts, len(images)) for parts in found]


def _joined(found: list[Explanation], count: int) -> Explanation:
    """One of several, without the surplus at the end."""

    def join(*arrays: np.ndarray) -> np.ndarray:
        return np.concatenate(arrays)[:count]

    columns = {name: join(*(getattr(one, name) for one in found)) for name in COLUMNS}
    parts = {name: join(*(one.parts[name] for one in found)) for name in found[0].parts}
    return Explanation(**columns, parts=parts, linear=found[0].linear)


def explain(spec: ModelSpec, head: Params, maps: Mapping[str, jax.Array], targets: np.ndarray) -> Explanation:
    """What speaks for a class in pictures whose maps are known.

    Args:
      head: `params["head"]`.
      maps: {block: float32 `[n, h, w, channels]`}, at least of the blocks that the head reads.
      targets: int `[n]`, a class each.
    """
    read = {f"block{i}": jnp.asarray(maps[f"block{i}"]) for i in spec.head.blocks}
    logits, cam, parts = jax.tree.map(np.asarray, _explained(spec, head, read, jnp.asarray(targets)))
    constants = logits - sum(part.sum((1, 2), dtype=np.float64) for part in parts.values())
    return Explanation(np.asarray(targets), logits, constants.astype(np.float32), cam, parts, not spec.head.hidden)


@functools.partial(jax.jit, static_argnums=0)
def _explained(
    spec: ModelSpec, head: Params, maps: dict[str, jax.Array], targets: jax.Array
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """(Logits `[n]`, Grad-CAM `[n, h, w]`, contributions of each block `[n, h, w]`)."""

    def logit(maps: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        logits = bind_head(spec, head)(read_blocks(maps, spec.head))
        of_targets = jnp.take_along_axis(logits, targets[:, None], 1)[:, 0]
        return of_targets.sum(), of_targets  # a picture's logit has no gradient in another picture

    gradients, logits = jax.grad(logit, has_aux=True)(maps)
    parts = {name: (gradients[name] * maps[name]).sum(-1) for name in maps}
    deepest = max(maps)
    weights = gradients[deepest].mean((1, 2), keepdims=True)
    return logits, jax.nn.relu((weights * maps[deepest]).sum(-1)), parts
