"""A 3x3 convolution for layers that train: Winograd F(2x2, 3x3) as matrix products, with JAX's own gradient.

It multiplies 4 times an output where the definition does 9 times, backward as well as forward. The transforms hold
only 0, 1, -1 and 1/2, so it rounds about as little as a plain sum. It wants several times the memory of its input: for
the small maps of deep blocks.

Source: Lavin & Gray 2016, arXiv:1509.09308, section 4.1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

# Both sides at once: a flattened 4x4 tile, 3x3 filter and 2x2 output are vectors of 16, 9 and 4.
INPUT, FILTER, OUTPUT = (
    np.kron(matrix, matrix).astype(np.float32)
    for matrix in (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    )
)


def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """float32 `[batch, height, width, in]`, `[3, 3, in, out]` -> `[batch, height, width, out]`, zero-padded."""
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)  # of 2x2 outputs
    x = jnp.pad(x, ((0, 0), (1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    pixels = [x[:, i : i + 2 * rows : 2, j : j + 2 * columns : 2] for i in range(4) for j in range(4)]
    tiles = jnp.matmul(INPUT, jnp.stack(pixels).reshape(16, -1)).reshape(16, -1, channels)
    filters = jnp.matmul(FILTER, kernel.reshape(9, -1)).reshape(16, channels, -1)
    outputs = jnp.matmul(OUTPUT, (tiles @ filters).reshape(16, -1)).reshape(2, 2, batch, rows, columns, -1)
    return outputs.transpose(2, 3, 0, 4, 1, 5).reshape(batch, 2 * rows, 2 * columns, -1)[:, :height, :width]
