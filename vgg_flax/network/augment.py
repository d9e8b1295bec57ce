"""Random views of a batch, inside jit: one affine warp and one colour pass, each picture by its own key."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vgg_flax.settings import AugmentSettings

VERSION = 1  # of the pixels that come out; part of the name under which features are kept


def view_keys(seed: int, view: int, contents: np.ndarray) -> jax.Array:
    """A key for every picture of a view, from its content alone: the same in any batch and any data set.

    Args:
      contents: SHA-256 of the encoded pictures, hexadecimal, str `[batch]`.
    """
    words = np.array([[int(content[:8], 16), int(content[8:16], 16)] for content in contents], np.uint32)
    return _fold_in(jax.random.fold_in(jax.random.key(seed), view), words)


@jax.jit
def _fold_in(key: jax.Array, words: jax.Array) -> jax.Array:
    return jax.vmap(lambda pair: jax.random.fold_in(jax.random.fold_in(key, pair[0]), pair[1]))(words)


@functools.partial(jax.jit, static_argnames="config")
def augment(images: jax.Array, keys: jax.Array | None, config: AugmentSettings) -> jax.Array:
    """RGB `[batch, height, width, 3]` in 0..255, one key each -> float32 of the same shape and range.

    Rotation, shift, zoom and mirror image are one bilinear warp whose outside repeats the border; contrast and
    brightness are one multiply-add. Without keys nothing changes but the type.
    """
    images = images.astype(jnp.float32)
    if keys is None:
        return images
    return jax.vmap(lambda image, key: _augment_one(image, key, config))(images, keys)


def _augment_one(image: jax.Array, key: jax.Array, config: AugmentSettings) -> jax.Array:
    angle, zoom, down, right, mirror, contrast, brightness = jax.random.uniform(key, (7,), minval=-1.0)
    matrix = _rotation_and_zoom(jnp.deg2rad(config.rotation * angle), 1 + config.zoom * zoom)
    if config.flip:
        matrix = matrix * jnp.where(mirror < 0, jnp.array([1.0, -1.0]), 1.0)  # columns: the x axis turns round
    shift = config.shift * jnp.stack([down, right])
    warped = warp(image, matrix, shift)
    mean = warped.mean()
    coloured = (warped - mean) * (1 + config.contrast * contrast) + mean + 255 * config.brightness * brightness
    return jnp.clip(coloured, 0, 255)


def _rotation_and_zoom(angle: jax.Array, zoom: jax.Array) -> jax.Array:
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([[cos, sin], [-sin, cos]]) / zoom


def warp(image: jax.Array, matrix: jax.Array, shift: jax.Array) -> jax.Array:
    """Bilinear sampling: the output at p comes from the input at matrix @ (p - centre) + centre + shift * size.

    Args:
      image: float `[height, width, channels]`.
      matrix: `[2, 2]`, acting on (row, column).
      shift: `[2]`, fractions of height and width.
    """
    height, width, _ = image.shape
    size = jnp.array([height, width], jnp.float32)
    centre = (size - 1) / 2
    rows, columns = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    offsets = jnp.stack([rows, columns], -1) - centre
    # Written out: a matrix product may run in a lower precision than the coordinates need.
    source = (matrix * offsets[..., None, :]).sum(-1) + centre + shift * size
    source = jnp.clip(source, 0, size - 1)
    low = jnp.floor(source).astype(jnp.int32)
    high = jnp.minimum(low + 1, jnp.array([height - 1, width - 1]))
    part = (source - low)[..., None]
    (r0, c0), (r1, c1) = (low[..., 0], low[..., 1]), (high[..., 0], high[..., 1])
    top = image[r0, c0] * (1 - part[..., 1, :]) + image[r0, c1] * part[..., 1, :]
    bottom = image[r1, c0] * (1 - part[..., 1, :]) + image[r1, c1] * part[..., 1, :]
    return top * (1 - part[..., 0, :]) + bottom * part[..., 0, :]
