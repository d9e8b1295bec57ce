"""The frozen convolutions of VGG on a CPU, as one kernel: three to four times as fast as XLA's own convolution.

`load` compiles and registers it or says why not, `pack` transforms the filters once, `features` runs them. There is
no gradient: `trained` has a convolution for layers that train.

Source: Winograd F(4x4, 3x3), Lavin & Gray 2016, arXiv:1509.09308; its rounding, Barabasz et al., arXiv:1803.10986; the
points 0, +-sqrt2, +-1/sqrt2, Alam et al., arXiv:2201.10369. Blocking and threading are described in kernel.cc.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from vgg_flax.network.winograd.build import TARGET, Unavailable, load

__all__ = ["Packed", "Unavailable", "features", "load", "pack"]

VERSION = 1  # of the bits that come out; part of the name under which features are kept
PANEL = 16  # output channels that the kernel keeps side by side; must match kernel.cc
ALIGNMENT = 64  # bytes: XLA takes a host array as it is only from such an address

Packed = dict[str, dict[str, jax.Array]]


def pack(backbone: Mapping[str, Mapping[str, Any]]) -> Packed:
    """Transforms the filters, in float64, and lays them out as the kernel reads them: 5 times their size.

    Args:
      backbone: `{"block1_conv1": {"kernel": float32 [3, 3, in, out], "bias": float32 [out]}, ...}`, concrete arrays.

    Returns:
      A pytree for `features`, on the CPU device; it may be an argument of a jitted function.

    Raises:
      ValueError: a name that is no layer of VGG, a shape that doesn't follow from the layer before, or a weight that
        is not finite.
    """
    packed: Packed = {}
    channels = None
    for name in _layers(backbone):
        kernel = np.asarray(backbone[name]["kernel"], np.float32)
        bias = np.asarray(backbone[name]["bias"], np.float32)
        expected = f"(3, 3, {'in' if channels is None else channels}, out)"
        if kernel.ndim != 4 or kernel.shape[:2] != (3, 3) or channels not in (None, kernel.shape[2]):
            raise ValueError(f"{name}: kernel has shape {kernel.shape}, expected {expected}")
        if bias.shape != kernel.shape[3:]:
            raise ValueError(f"{name}: bias has shape {bias.shape}, expected {kernel.shape[3:]}")
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise ValueError(f"{name}: weights hold NaN or infinity")
        _, _, inputs, outputs = kernel.shape
        arrays = {"filters": _panels(np.eye(1), kernel.reshape(1, 9 * inputs, outputs)), "bias": bias.copy()}
        if channels is not None:
            taps = kernel.reshape(9, inputs, outputs)
            arrays["transformed"] = _panels(_filter_transform(), taps, padding=-inputs % PANEL)
        packed[name] = {key: jax.dlpack.from_dlpack(array) for key, array in arrays.items()}
        channels = outputs
    return packed


def features(
    packed: Packed,
    images: jax.Array | np.ndarray,
    blocks: Sequence[str] = ("block3", "block4", "block5"),
    *,
    threads: int | None = None,
) -> dict[str, jax.Array]:
    """Runs the frozen stack as far as the last of `blocks`. May be called under `jax.jit`; has no gradient.

    Bits depend on neither the batch an image is in nor the number of threads. NaN and infinity go exactly where the
    definitions of convolution, ReLU and maximum take them, while XLA's fused pooling may lose NaN on the way.

    Args:
      packed: from `pack`.
      images: float32 `[batch, height, width, in]`, normalised; 32 pixels a side is the least for five blocks.
      blocks: whose outputs to return.
      threads: at most so many; all of XLA's unless given.

    Returns:
      For block b float32 `[batch, height // 2**b, width // 2**b, channels]`, after ReLU and max-pool.

    Raises:
      Unavailable: as `load`.
      ValueError: an unknown block, or images of another shape or type.
    """
    load()
    names = _layers(packed)
    depths = [sum(_place(name)[0] == block for name in names) for block in range(1, _place(names[-1])[0] + 1)]
    known = {f"block{block}": block for block in range(1, len(depths) + 1)}
    if not blocks or not set(blocks) <= known.keys():
        raise ValueError(f"blocks are {list(blocks)}, expected some of {', '.join(known)}")
    wanted = sorted({known[block] for block in blocks})
    last = wanted[-1]
    if images.ndim != 4 or images.dtype != np.float32 or min(images.shape[1:3]) < 2**last:
        raise ValueError(
            f"images are {images.dtype}{list(images.shape)}, expected float32[batch, height, width, channels] "
            f"of at least {2**last} pixels a side for block{last}"
        )
    names = [name for name in names if _place(name)[0] <= last]
    batch, height, width, _ = images.shape
    channels = [packed[f"block{block}_conv{depths[block - 1]}"]["bias"].shape[0] for block in wanted]
    shapes = [
        jax.ShapeDtypeStruct((batch, height >> block, width >> block, -(-count // PANEL) * PANEL), np.float32)
        for block, count in zip(wanted, channels, strict=True)
    ]
    weights = [packed[name][key] for name in names for key in ("filters", "transformed", "bias") if key in packed[name]]
    results = jax.ffi.ffi_call(TARGET, shapes)(
        images,
        *weights,
        depths=np.array(depths[:last], np.int64),
        wanted=np.array(wanted, np.int64) - 1,
        max_threads=np.int64(threads or 0),
    )
    return {f"block{block}": out[..., :count] for block, count, out in zip(wanted, channels, results, strict=True)}


def _layers(weights: Mapping[str, Any]) -> list[str]:
    """The names of `weights` in the order of the network, which must be blocks 1, 2, ... of convolutions 1, 2, ..."""
    unknown = [name for name in weights if re.fullmatch(r"block[1-9]\d*_conv[1-9]\d*", name) is None]
    names = sorted(weights.keys() - set(unknown), key=_place)
    block, convolution = 0, 0
    for name in names:
        if _place(name) not in ((block, convolution + 1), (block + 1, 1)) or name == "block0_conv1":
            unknown.append(name)
        block, convolution = _place(name)
    if unknown or not names:
        found = ", ".join(unknown) or "nothing"
        raise ValueError(f"expected block1_conv1, block1_conv2, ... and no gaps; found {found}")
    if "block1_conv2" not in names:
        raise ValueError("block1_conv2 is missing: the first convolution is a direct one, which can't pool")
    return names


def _place(name: str) -> tuple[int, int]:
    block, convolution = re.findall(r"\d+", name)
    return int(block), int(convolution)


def _filter_transform() -> np.ndarray:
    """float64 `[36, 9]`: G (x) G, which takes a flattened 3x3 filter to its 36 elements."""
    a, b = math.sqrt(2), math.sqrt(0.5)
    rows = [[1.0, 0.0, 0.0]]
    # The scale is one over the product of a point's distances from the other four finite points.
    rows += [[scale, scale * x, scale * x * x] for x, scale in ((a, 1 / 6), (-a, 1 / 6), (b, -2 / 3), (-b, -2 / 3))]
    rows += [[0.0, 0.0, 1.0]]
    return np.kron(np.array(rows), np.array(rows))


def _panels(transform: np.ndarray, matrices: np.ndarray, padding: int = 0) -> np.ndarray:
    """`[count, k]` times `[k, rows, out]`, in float64 -> float32 `[count, panels, rows + padding, 16]`, zero-padded."""
    (count, _), (_, rows, out) = transform.shape, matrices.shape
    panels = -(-out // PANEL)
    shape = (count, panels, rows + padding, PANEL)
    # NumPy asks for huge pages behind large arrays, and handed over by DLPack, not copied, they stay: the filters are
    # far larger than what a processor can address without a miss otherwise.
    memory = np.empty(math.prod(shape) * 4 + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    result = memory[start : start + math.prod(shape) * 4].view(np.float32).reshape(shape)
    result[:, :, rows:] = 0
    result[:, -1] = 0
    for panel in range(panels):  # one at a time, so that the float64 of it stays in a cache
        part = matrices[:, :, panel * PANEL : (panel + 1) * PANEL].astype(np.float64, order="C")
        # A product per row: too small for BLAS to share among threads, which takes ten times as long as the work.
        result[:, panel, :rows, : part.shape[2]] = (transform @ part.swapaxes(0, 1)).swapaxes(0, 1)
    return result
