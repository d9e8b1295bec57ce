"""Robust accuracy: the mean accuracy over ten fixed changes that a camera makes to a photo.

A test set looks like the training set; a live picture does not. It is framed loosely, turned, badly lit, out of focus
or compressed. Each change here is one such fault, strong but readable for a person. Where a change has a choice, such
as the side that a picture turns to, the photo's own content digest decides: order, size and neighbours do not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

if TYPE_CHECKING:  # changing pictures needs no JAX
    from vgg_flax.answers.predictor import Predictor
    from vgg_flax.data.photos import Photos

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def change(name: str, pictures: np.ndarray, contents: Sequence[str]) -> np.ndarray:
    """The pictures as a camera fault shows them; the same bits for the same picture and content.

    Args:
      name: a key of CHANGES.
      pictures: uint8 RGB `[n, S, S, 3]`; stays as it is.
      contents: `[n]` content digests, which choose sides and corners.

    Returns:
      uint8 RGB `[n, S, S, 3]`.
    """
    changed = np.empty_like(pictures)
    for row, picture, content in zip(changed, pictures, contents, strict=True):
        row[:] = CHANGES[name](np.ascontiguousarray(picture), _choices(name, content))
    return changed


def accuracies(
    answer: Callable[[np.ndarray], np.ndarray], pictures: np.ndarray, contents: Sequence[str], labels: np.ndarray
) -> dict[str, float]:
    """The accuracy under each change, in the order of CHANGES; `robust_accuracy` is their mean.

    Args:
      answer: uint8 RGB `[n, S, S, 3]` -> logits or probabilities `[n, classes]`.
      pictures: uint8 RGB `[n, S, S, 3]`, decoded test pictures.
      contents: `[n]` content digests.
      labels: int `[n]`.
    """
    return {name: float((answer(change(name, pictures, contents)).argmax(-1) == labels).mean()) for name in CHANGES}


def of_test(predictor: Predictor, photos: Photos) -> dict[str, Any]:
    """{"accuracy": robust accuracy, "by_change": {change: accuracy}} of the test pictures."""
    test = photos.rows("test")
    contents, labels = photos.contents[test].tolist(), photos.labels[test]
    by_change = accuracies(lambda images: predictor.run(images)[0], photos.images[test], contents, labels)
    return {"accuracy": robust_accuracy(by_change), "by_change": by_change}


def robust_accuracy(by_change: dict[str, float]) -> float:
    """The mean over the ten changes, each of equal weight."""
    return float(np.mean([by_change[name] for name in CHANGES]))


def _choices(name: str, content: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{name}:{content}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def _framed(picture: np.ndarray, share: float, down: float = 0.5, right: float = 0.5) -> np.ndarray:
    """The photo at `share` of its size on a blurred frame of itself, from corner (0, 0), upper left, to (1, 1)."""
    frame = _surroundings(picture)
    height, width = (round(share * side) for side in picture.shape[:2])
    top, left = round(down * (picture.shape[0] - height)), round(right * (picture.shape[1] - width))
    frame[top : top + height, left : left + width] = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    return frame


def _surroundings(picture: np.ndarray) -> np.ndarray:
    """What lies around the photo, as far as anyone knows: its own colours without its shapes."""
    return _blurred(picture, 1 / 10)


def _blurred(picture: np.ndarray, share: float) -> np.ndarray:
    """Gaussian blur; the standard deviation is a share of the picture's side."""
    return cv2.GaussianBlur(picture, (0, 0), share * picture.shape[0], borderType=cv2.BORDER_REPLICATE)


def _off_centre(picture: np.ndarray, choices: np.random.Generator) -> np.ndarray:
    down, right = choices.integers(2, size=2)
    return _framed(picture, 2 / 3, down, right)


def _turned_15(picture: np.ndarray, choices: np.random.Generator) -> np.ndarray:
    size = picture.shape[0]
    angle = 15 * choices.choice([-1, 1])
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), angle, 1.0)
    return cv2.warpAffine(picture, matrix, (size, size), dst=_surroundings(picture), borderMode=cv2.BORDER_TRANSPARENT)


def _turned_90(picture: np.ndarray, choices: np.random.Generator) -> np.ndarray:
    return np.rot90(picture, choices.choice([-1, 1]))


def _scaled(picture: np.ndarray, gains: Sequence[float], around: float = 0.0) -> np.ndarray:
    """(x - around) * gain + around in each channel, rounded and clipped."""
    values = (picture.astype(np.float32) - around) * np.asarray(gains, np.float32) + around
    return np.rint(np.clip(values, 0, 255)).astype(np.uint8)


def _jpeg_20(picture: np.ndarray) -> np.ndarray:
    encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB))


CHANGES: dict[str, Change] = {
    "half size": lambda picture, _: _framed(picture, 1 / 2),
    "third size": lambda picture, _: _framed(picture, 1 / 3),
    "off centre": _off_centre,  # two thirds of the size, in a corner
    "turned by 15": _turned_15,
    "turned by 90": _turned_90,
    "dark": lambda picture, _: _scaled(picture, (0.25, 0.25, 0.25)),
    "warm light": lambda picture, _: _scaled(picture, (1.2, 1.0, 0.6)),  # a bulb's, the camera set for daylight
    "low contrast": lambda picture, _: _scaled(picture, (0.3, 0.3, 0.3), around=float(picture.mean())),
    "blur": lambda picture, _: _blurred(picture, 1 / 75),  # 3 pixels at 224
    "JPEG 20": lambda picture, _: _jpeg_20(picture),
}
