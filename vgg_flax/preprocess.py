"""From a picture to network input, the one place for training, evaluation, prediction, webcam and export.

Two halves: on the host, any picture becomes uint8 RGB `[size, size, 3]`; on the device, uint8 RGB becomes the
normalised float input. What was done is written down in a `Preprocessing` record that travels with the weights.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

KERAS_MEAN = (123.68, 116.779, 103.939)  # RGB, of the ImageNet weights that Keras distributes


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes network input. Stored beside every set of weights.

    Attributes:
      image_size: side of the square input in pixels.
      mean, std: per channel, RGB, in units of 0..255; the input is (rgb - mean) / std.
      resize: `squash` scales both sides to `image_size`, whatever the aspect ratio.
    """

    image_size: int
    mean: tuple[float, float, float] = KERAS_MEAN
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resize: Literal["squash"] = "squash"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(float(v) for v in self.mean))
        object.__setattr__(self, "std", tuple(float(v) for v in self.std))
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"mean {self.mean} and std {self.std}: expected three numbers each, std above 0.")
        if self.resize != "squash":
            raise ValueError(f"resize is {self.resize!r}, expected 'squash'.")


class BadImage(Exception):
    """A picture that can't be used; the message is the reason."""


def load_image(path: str | Path, preprocessing: Preprocessing) -> np.ndarray:
    """Read one picture file as uint8 RGB `[size, size, 3]`.

    Raises:
      BadImage: the file is no picture, is cut short, or can't be read.
    """
    return resize(decode(read_bytes(path)), preprocessing)


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a regular file. Raises BadImage for folders, pipes, devices and unreadable files."""
    path = Path(path)
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise BadImage("not a regular file" if path.exists() else "no such file")
        return path.read_bytes()
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from None


def decode(data: bytes) -> np.ndarray:
    """Any picture OpenCV knows -> uint8 RGB `[height, width, 3]`, upright by its EXIF tag.

    Grey, palette and CMYK pictures become RGB, 16 bits become 8, transparency is laid over white, and of an
    animation the first frame is taken.
    """
    if not data:
        raise BadImage("empty file")
    raw = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise BadImage(f"refused by the decoder: {str(error.err).strip()}") from None
    if image is None:
        raise BadImage(_why_undecodable(data))
    return _over_white(raw, image) if _may_have_alpha(data) else image


def _may_have_alpha(data: bytes) -> bool:
    png = data.startswith(b"\x89PNG") and (data[25:26] in (b"\x04", b"\x06") or b"tRNS" in data[:4096])
    webp = data[8:16] in (b"WEBPVP8X", b"WEBPVP8L")
    return png or webp or data.startswith(b"GIF8")


def _over_white(raw: np.ndarray, image: np.ndarray) -> np.ndarray:
    layered = cv2.imdecode(raw, cv2.IMREAD_UNCHANGED)
    # An EXIF turn is not applied to `layered`; such a picture keeps its hidden colours rather than a wrong mask.
    if layered is None or layered.ndim != 3 or layered.shape[2] != 4 or layered.shape[:2] != image.shape[:2]:
        return image
    full = {1: 255, 2: 65535}.get(layered.dtype.itemsize, 1)  # of uint8, uint16, and floats
    alpha = layered[:, :, 3:].astype(np.float32) / full
    return np.rint(image * alpha + 255 * (1 - alpha)).astype(np.uint8)


def _why_undecodable(data: bytes) -> str:
    start = data[:512].lstrip()
    if data.startswith(b"\xff\xd8"):
        return "truncated JPEG" if not data.rstrip(b"\0").endswith(b"\xff\xd9") else "damaged JPEG"
    if data.startswith((b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")):
        return "truncated or damaged picture"
    if start[:1] == b"<":
        return "an HTML or XML page, not a picture"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not a picture: run `git lfs pull`"
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
        return "HEIC, which OpenCV can't read: convert it to JPEG"
    return "not a picture"


def resize(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """uint8 RGB `[height, width, 3]` -> uint8 RGB `[size, size, 3]`."""
    size = preprocessing.image_size
    shrinks = image.shape[0] > size or image.shape[1] > size
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def prepare_frame(frame: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """A camera frame, uint8 BGR `[height, width, 3]` -> uint8 RGB `[size, size, 3]`."""
    return resize(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), preprocessing)


def normalize(images: Any, preprocessing: Preprocessing) -> Any:
    """RGB `[..., 3]` in 0..255, NumPy or JAX, any real dtype -> float32 network input of the same shape."""
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    return (images.astype(np.float32) - mean) / std
