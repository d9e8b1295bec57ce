"""The frozen layers as one compiled function: uint8 pictures in, out comes what is kept of each."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from vgg_flax.console import say
from vgg_flax.errors import UserError
from vgg_flax.network import augment, preprocess, winograd
from vgg_flax.network.model import bind_backbone, pool
from vgg_flax.network.params import Params, digest
from vgg_flax.network.spec import POOLED_BLOCKS, POOLS, BackboneSpec, Precision, Preprocessing, map_shape
from vgg_flax.settings import AugmentSettings

NO_CHANGE = AugmentSettings()  # without keys its values are not looked at
MAP_BYTES = {"cpu": 200 * 2**20, "gpu": 2 * 2**30}  # 16 and 167 pictures of 224 pixels
MOST = {"cpu": 64, "gpu": 256}  # pictures in a batch, as the last one is filled up


class Extractor:
    """The frozen layers of a network.

    Attributes:
      engine: `winograd` or `xla`, as chosen.
      shapes: {output: shape for one picture}: `pooled` `(n,)`, average and maximum of blocks 3 to 5 side by side, and
        maps such as `block4` `(height, width, channels)`.
    """

    def __init__(
        self,
        backbone: BackboneSpec,
        params: Params,
        preprocessing: Preprocessing,
        *,
        engine: str = "auto",
        precision: Precision = "float32",
        outputs: tuple[str, ...] = ("pooled",),
        say: Callable[[str], object] = say,
    ):
        self.backbone, self.preprocessing = backbone, preprocessing
        self.precision: Precision = precision
        self.engine = choose_engine(engine, backbone, precision, say)
        self.shapes = {name: output_shape(backbone, preprocessing.image_size, name) for name in outputs}
        self._params = params

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """All that determines an output, except the picture and which output: JSON types."""
        versions = {"winograd": f"winograd {winograd.VERSION}", "xla": f"xla {version('jaxlib')}"}
        return {
            "backbone": dataclasses.asdict(self.backbone),
            "weights": digest(self._params),
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "precision": self.precision,
            "backend": jax.default_backend(),
            "engine": versions[self.engine],
            "opencv": cv2.__version__,
            "versions": {"augment": augment.VERSION, "preprocess": preprocess.VERSION},
        }

    @functools.cached_property
    def _prepared(self) -> Any:
        """As the engine wants them; transforming filters takes a second that a run on stored features can save."""
        return winograd.pack(self._params) if self.engine == "winograd" else jax.device_put(self._params)

    def __call__(
        self, images: np.ndarray, keys: jax.Array | None = None, augmentation: AugmentSettings = NO_CHANGE
    ) -> dict[str, jax.Array]:
        """uint8 RGB `[batch, size, size, 3]` -> {output: float32 `[batch, *shape]`}; with keys, of random views."""
        spec = _Program(self.backbone, self.preprocessing, self.precision, self.engine, tuple(self.shapes))
        return _extract(spec, augmentation, self._prepared, images, keys)


@dataclasses.dataclass(frozen=True)
class _Program:
    """What the function is compiled for."""

    backbone: BackboneSpec
    preprocessing: Preprocessing
    precision: Precision
    engine: str
    outputs: tuple[str, ...]

    @property
    def blocks(self) -> tuple[str, ...]:
        """The block outputs that are needed."""
        maps = {name for name in self.outputs if name != "pooled"}
        return tuple(sorted(maps | ({f"block{i}" for i in POOLED_BLOCKS} if "pooled" in self.outputs else set())))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _extract(
    program: _Program, augmentation: AugmentSettings, params: Any, images: jax.Array, keys: jax.Array | None
) -> dict[str, jax.Array]:
    inputs = preprocess.normalize(augment.augment(images, keys, augmentation), program.preprocessing)
    if program.engine == "winograd":
        blocks = winograd.features(params, inputs, program.blocks)
    else:
        blocks = bind_backbone(program.backbone, program.precision, params)(inputs)
    blocks = {name: blocks[name].astype(jnp.float32) for name in program.blocks}
    outputs = {name: blocks[name] for name in program.outputs if name != "pooled"}
    if "pooled" in program.outputs:
        outputs["pooled"] = pool(blocks, POOLED_BLOCKS, POOLS)
    return outputs


def output_shape(backbone: BackboneSpec, image_size: int, name: str) -> tuple[int, ...]:
    """Shape of an output for one picture."""
    if name == "pooled":
        return (len(POOLS) * sum(backbone.blocks[block - 1][-1] for block in POOLED_BLOCKS),)
    return map_shape(backbone, image_size, int(name.removeprefix("block")))


def choose_engine(asked: str, backbone: BackboneSpec, precision: Precision, say: Callable[[str], object]) -> str:
    """`winograd` where it runs, else `xla`, with a line that says why not. Raises UserError if it was insisted on."""
    if asked == "xla":
        return "xla"
    reason = None
    if jax.default_backend() != "cpu":
        reason = f"this machine has a {jax.default_backend().upper()}"
    elif precision != "float32":
        reason = f"--precision is {precision}"
    elif len(backbone.blocks[0]) == 1:
        reason = "block1 of this network has a single convolution"
    else:
        try:
            winograd.load(say=say)
            return "winograd"
        except winograd.Unavailable as error:
            reason = str(error)
    if asked == "winograd":
        raise UserError(f"--engine winograd is unavailable: {reason}.")
    if jax.default_backend() == "cpu":
        say(f"engine: XLA's own convolutions ({reason})")
    return "xla"


def batch_size(image_size: int) -> int:
    """Pictures per call of the backbone, so many that block1's output, its largest, fits MAP_BYTES.

    A picture's is 64 channels * image_size**2 * 4 bytes before pooling: 12.25 MiB at 224 pixels, 256 MiB at 1024.
    XLA on a CPU was seen to take 1.8 to 2.7 times the batch's, the Winograd kernel less. At least 1, which may not fit.
    """
    backend = "cpu" if jax.default_backend() == "cpu" else "gpu"
    return int(np.clip(MAP_BYTES[backend] // (64 * image_size**2 * 4), 1, MOST[backend]))
