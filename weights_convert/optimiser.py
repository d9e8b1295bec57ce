"""What an optimiser's state says about the inputs that a head was trained on.

Adam and RMSprop keep a mean of each weight's squared gradient. A dense kernel's gradient is what came in times the
error of what went out, so its row is large where that feature fired: the file remembers how strongly each feature
fired in training, and with it how the pictures were prepared.

Source: Kingma & Ba 2015, arXiv:1412.6980, algorithm 1, the second raw moment v.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from weights_convert.tensor import Source, read_float32

NEAR = 1.2  # times the best recipe's disagreement, one minus its agreement


def second_moments(source: Source, shape: tuple[int, int]) -> np.ndarray | None:
    """The second moments of a dense kernel's gradient, each row's summed.

    Args:
      shape: (inputs, outputs) of the kernel. Names are ignored: Keras has used many for these arrays, but of those
        with this shape only second moments have no negative values.

    Returns:
      float64 [inputs], or None where the file has none, or none of a training that took place.
    """
    for tensor in source.optimiser:
        if tensor.shape == shape:
            values = read_float32(source.path, tensor)
            if values.min() >= 0 and values.max() > 0:
                return values.sum(1, dtype=np.float64)
    return None


def agreement(moments: np.ndarray, energy: np.ndarray) -> float:
    """Spearman's rank correlation of the channels, -1 to 1: no scale and no threshold for dead ones to choose.

    Args:
      moments: [channels].
      energy: mean squares of the channels' outputs under a recipe, [channels].
    """
    from scipy.stats import spearmanr

    if not (np.ptp(moments) and np.ptp(energy)):
        return -1.0
    found: Any = spearmanr(moments, energy)
    return float(found.statistic)


def by_channel(rows: np.ndarray, channels: int) -> np.ndarray:
    """[inputs] of a flattened map -> [channels]: random shifts in training blur the places."""
    return rows.reshape(-1, channels).sum(0)


def near(agreements: list[float]) -> np.ndarray:
    """Indices of the recipes that fit about as well as the best one.

    The random views that a head was trained on, and which photos weighed most, are unknown, and can change the order
    of recipes that are nearer to each other than this.
    """
    apart = 1 - np.array(agreements)
    return np.flatnonzero(apart <= NEAR * apart.min())
