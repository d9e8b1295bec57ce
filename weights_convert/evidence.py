"""What the first convolution says of the weights that it comes from, under whatever names: colours and statistics.

A few numbers of each network's ImageNet weights, which fine-tuning moves by some hundredths: the nearest network and
order of colours counts. Old style-transfer, detection and segmentation repositories distribute Caffe's weights under
torchvision's names. Source: the files themselves.
"""

from __future__ import annotations

import numpy as np

from weights_convert.rules import CAFFE, TORCH

NEAR = 0.15  # of the numbers' own size: colours in the other order are 0.29 away, other weights 1 and more
# Name: (statistics, biases from the first on, [(row, column, colour in RGB, filter, value)]).
KNOWN = {
    "Caffe's VGG16": (
        CAFFE,
        (0.7343, 0.0934, 0.0678, 0.8863),
        ((0, 0, 0, 0, 0.4800), (0, 0, 1, 0, 0.5504), (0, 0, 2, 0, 0.4295), (0, 0, 0, 1, -0.1727), (0, 0, 2, 1, 0.1173)),
    ),
    "Caffe's VGG19": (CAFFE, (0.7302,), ((0, 0, 2, 0, 0.3412), (0, 0, 2, 1, 0.0956), (0, 0, 2, 2, 0.0177))),
    "torchvision's VGG16": (
        TORCH,
        (0.4034, 0.3778, 0.4644, -0.3228),
        (
            (0, 0, 0, 0, -0.5537),
            (0, 2, 0, 0, 0.5290),
            (0, 0, 1, 0, 0.1755),
            (0, 0, 2, 0, 0.3130),
            (2, 2, 2, 0, -0.2775),
        ),
    ),
    "torchvision's VGG19": (
        TORCH,
        (),
        ((0, 2, 0, 0, -0.0679), (1, 1, 1, 0, 0.2271), (1, 2, 1, 0, 0.1376), (2, 1, 1, 0, 0.2003), (1, 1, 2, 0, 0.1396)),
    ),
}
Statistics = tuple[tuple[float, float, float], tuple[float, float, float]]


def origin(kernel: np.ndarray, bias: np.ndarray) -> tuple[str, bool, Statistics] | None:
    """(name, whether it expects BGR, (mean, std)) of the weights that these were trained from, if they are known.

    Args:
      kernel: float32 [3, 3, 3, out], as the file has it.
      bias: float32 [out].
    """
    if kernel.shape[3] < 8:
        return None
    found = []
    for name, (statistics, biases, points) in KNOWN.items():
        known = np.array([*biases, *(value for *_, value in points)])
        for bgr in (False, True):
            values = kernel[:, :, ::-1] if bgr else kernel
            ours = [*bias[: len(biases)], *(values[h, w, c, o] for h, w, c, o, _ in points)]
            found.append((np.linalg.norm(ours - known) / np.linalg.norm(known), name, bgr, statistics))
    distance, *best = min(found)
    return (best[0], best[1], best[2]) if distance <= NEAR else None
