"""The frozen convolutions: run once per view of each picture, their outputs kept on disk.

View 0 is the clean picture, every other view a random augmentation. A view is one file in the cache, named by a
digest of all that determines it: pictures, preprocessing, weights, augmentation, engine, which output. A pass that
was cut off goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from filelock import FileLock

from vgg_flax import augment, winograd
from vgg_flax import params as param_tools
from vgg_flax.config import AugmentConfig, UserError, cache_dir
from vgg_flax.console import bar, say
from vgg_flax.data.loader import Pictures, prefetch
from vgg_flax.files import write_atomic
from vgg_flax.model import POOLED_BLOCKS, ModelSpec, bind_backbone, gather_features
from vgg_flax.preprocess import Preprocessing, normalize
from vgg_flax.winograd.build import SOURCE as winograd_source

Output = Literal["features", "block4"]  # what the head reads, or the maps that a trained block5 reads
NO_CHANGE = AugmentConfig()  # without keys its values are not looked at
MAP_BYTES = {"cpu": 200 * 2**20, "gpu": 2 * 2**30}  # 16 and 167 pictures of 224 pixels


class Extractor:
    """The frozen convolutions as a compiled function from pictures to an output of theirs.

    Attributes:
      engine: `winograd` or `xla`, as chosen.
      shape: of a picture's output: `(head_inputs,)`, or for block4 `(size / 16, size / 16, channels)`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        backbone: param_tools.Params,
        preprocessing: Preprocessing,
        engine: str,
        output: Output = "features",
    ):
        self.spec, self.preprocessing, self.output = spec, preprocessing, output
        self.engine = choose_engine(engine, spec)
        side = spec.image_size // 2**4
        self.shape = (spec.head_inputs,) if output == "features" else (side, side, spec.backbone.blocks[3][-1])
        self._backbone = backbone

    @functools.cached_property
    def digest(self) -> str:
        """Of all that determines the output for a clean picture, except the picture."""
        spec, preprocessing = self.spec, self.preprocessing
        what = spec.head.features if self.output == "features" else self.output
        return _digest(
            [dataclasses.asdict(spec.backbone), what, spec.precision, dataclasses.asdict(preprocessing)],
            [param_tools.digest(self._backbone), jax.default_backend(), _engine_digest(self.engine)],
        )

    @functools.cached_property
    def _params(self) -> Any:
        """As the engine wants them; transforming filters takes a second that a run on stored features can save."""
        return winograd.pack(self._backbone) if self.engine == "winograd" else jax.device_put(self._backbone)

    def __call__(
        self, images: np.ndarray, keys: jax.Array | None = None, config: AugmentConfig = NO_CHANGE
    ) -> jax.Array:
        """uint8 RGB `[batch, size, size, 3]` -> float32 `[batch, *shape]`; with keys, of a random view."""
        return _extract(self.spec, self.engine, self.output, self.preprocessing, config, self._params, images, keys)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _extract(
    spec: ModelSpec,
    engine: str,
    output: Output,
    preprocessing: Preprocessing,
    config: AugmentConfig,
    params: Any,
    images: jax.Array,
    keys: jax.Array | None,
) -> jax.Array:
    inputs = normalize(augment.augment(images, keys, config), preprocessing)
    if engine == "winograd":
        wanted = (4,) if output == "block4" else POOLED_BLOCKS.get(spec.head.features, (5,))
        blocks = winograd.features(params, inputs, tuple(f"block{i}" for i in wanted))
    else:
        blocks = bind_backbone(spec, params)(inputs)
    if output == "block4":
        return blocks["block4"].astype(jnp.float32)
    return gather_features(blocks, spec.head.features)


def choose_engine(asked: str, spec: ModelSpec) -> str:
    """`winograd` where it runs, else `xla`, with a line that says why not. Raises UserError if it was insisted on."""
    if asked == "xla":
        return "xla"
    reason = None
    if jax.default_backend() != "cpu":
        reason = f"this machine has a {jax.default_backend().upper()}"
    elif spec.precision != "float32":
        reason = f"--precision is {spec.precision}"
    elif len(spec.backbone.blocks[0]) == 1:
        reason = "block1 of this network has a single convolution"
    else:
        try:
            winograd.load(say=say)
            return "winograd"
        except winograd.Unavailable as error:
            reason = str(error)
    if asked == "winograd":
        raise UserError(f"--engine winograd can't be had: {reason}.")
    if jax.default_backend() == "cpu":
        say(f"engine: XLA's own convolutions ({reason})")
    return "xla"


def _engine_digest(engine: str) -> str:
    """Another kernel rounds differently, and features of the two must not be mixed."""
    return hashlib.sha256(winograd_source.read_bytes()).hexdigest() if engine == "winograd" else engine


def batch_size(image_size: int) -> int:
    """Pictures per call of the backbone, so many that block1's output, its largest, fits MAP_BYTES.

    A picture's is 64 channels * image_size**2 * 4 bytes before pooling: 12.25 MiB at 224 pixels, 256 MiB at 1024.
    XLA on a CPU was seen to take 1.8 to 2.7 times the batch's, the Winograd kernel less. At least 1, which may not
    fit; at most 256, as the last batch is filled up.
    """
    limit = MAP_BYTES["cpu" if jax.default_backend() == "cpu" else "gpu"]
    return int(np.clip(limit // (64 * image_size**2 * 4), 1, 256))


def extract_view(
    extractor: Extractor,
    pictures: Pictures,
    indices: np.ndarray,
    *,
    view: int,
    seed: int,
    config: AugmentConfig,
    check: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """What the extractor gives for one view of `pictures.images[indices]`, from the cache or computed now.

    Args:
      indices: `[m]`; a random view is drawn by the position in it.
      view: 0 for the clean pictures.
      check: called between batches; may raise to stop. What is done stays done.

    Returns:
      float32 `[m, *extractor.shape]`, memory-mapped, read-only.

    Raises:
      UserError: it does not fit on the disk.
    """
    random = [] if view == 0 else [view, seed, dataclasses.asdict(config), jax.__version__]
    key = _digest([extractor.digest, pictures.digest, hashlib.sha256(indices.tobytes()).hexdigest()], random)
    folder = cache_dir() / "features"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key[:32]}.npy"
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            _compute_view(extractor, pictures.images, indices, path, view=view, seed=seed, config=config, check=check)
    return np.load(path, mmap_mode="r")


def _compute_view(
    extractor: Extractor,
    images: np.ndarray,
    indices: np.ndarray,
    path: Path,
    *,
    view: int,
    seed: int,
    config: AugmentConfig,
    check: Callable[[], None],
) -> None:
    part, progress = path.with_suffix(".part"), path.with_suffix(".json")
    done = json.loads(progress.read_text())["done"] if progress.exists() and part.exists() else 0
    _check_room(path.parent, (len(indices) - done) * math.prod(extractor.shape) * 4)
    rows = np.lib.format.open_memmap(part, "r+" if done else "w+", np.float32, (len(indices), *extractor.shape))
    size = min(batch_size(extractor.preprocessing.image_size), len(indices))
    starts = range(done, len(indices), size)

    def load(k: int) -> tuple[np.ndarray, np.ndarray]:
        positions = np.arange(starts[k], min(starts[k] + size, len(indices)))
        positions = np.resize(positions, size)  # one shape compiles; the surplus is thrown away
        return positions, images[indices[positions]]

    title = f"{extractor.output} of the clean pictures" if view == 0 else f"{extractor.output} of random view {view}"
    with bar(title, len(indices), done) as advance:
        for start, (positions, batch) in zip(starts, prefetch(load, len(starts), ahead=2), strict=True):
            keys = augment.view_keys(seed, view, jnp.asarray(positions)) if view else None
            count = min(size, len(indices) - start)
            rows[start : start + count] = extractor(batch, keys, config)[:count]
            rows.flush()
            write_atomic(progress, json.dumps({"done": start + count}))
            advance(count)
            check()
    part.rename(path)
    progress.unlink(missing_ok=True)


def _check_room(folder: Path, wanted: int) -> None:
    """Mapped files grow as they are filled, and a full disk would end the process without a word."""
    free = shutil.disk_usage(folder).free
    if wanted > free:
        raise UserError(
            f"{folder} needs room for {wanted / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: make room, set "
            "VGG_FLAX_CACHE to a folder on a larger disk, or choose a smaller --image-size."
        )


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
