"""Pictures with known faults: generated scenes, and ways to make a near-copy."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np


def scene(seed: int, height: int = 96, width: int = 112) -> np.ndarray:
    """uint8 BGR: a dozen shapes on a slope of light, like no other seed's."""
    rng = np.random.default_rng((77, seed))
    slope = np.linspace(*rng.uniform(40, 200, 2), width)[None, :, None] * rng.uniform(0.6, 1, 3)
    image = np.broadcast_to(slope, (height, width, 3)).astype(np.uint8).copy()
    for _ in range(12):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        axes = (int(rng.integers(5, 30)), int(rng.integers(5, 30)))
        colour = [int(value) for value in rng.integers(0, 256, 3)]
        cv2.ellipse(image, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return image


def cropped(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Nine tenths of each side, from anywhere."""
    height, width = (round(0.9 * side) for side in image.shape[:2])
    top, left = rng.integers(image.shape[0] - height + 1), rng.integers(image.shape[1] - width + 1)
    return image[top : top + height, left : left + width]


def turned(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    angle = float(rng.choice([-1, 1]) * rng.uniform(2, 5))
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.05)
    return cv2.warpAffine(image, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)


def resized(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    scale = float(rng.choice([0.5, 0.6, 0.7, 1.5, 2.0]))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return cv2.resize(image, None, fx=scale, fy=scale, interpolation=how)


def reencoded(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    quality = int(rng.choice([50, 60, 70, 80, 90]))
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


CHANGES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "re-encoded": reencoded,
    "resized": resized,
    "mirrored": lambda image, rng: image[:, ::-1],
    "cropped": cropped,
    "turned": turned,
}


def plant_copies(folder: Path, count: int, seed: int) -> dict[str, dict[str, str]]:
    """Copies of each kind beside their originals: {kind: {name of the copy: name of the original}}.

    Args:
      folder: one folder a class, which are changed.
      count: of each kind, all of different originals.
    """
    rng = np.random.default_rng(seed)
    pool = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    order = iter(rng.permutation(len(pool)))
    planted: dict[str, dict[str, str]] = {}
    for kind in ("exact", *CHANGES):
        planted[kind] = {}
        for i in range(count):
            path = pool[next(order)]
            copy = path.with_name(f"planted_{kind}_{i}{path.suffix if kind == 'exact' else '.jpg'}")
            if kind == "exact":
                shutil.copy(path, copy)
            else:
                image = CHANGES[kind](cv2.imread(str(path)), rng)
                cv2.imwrite(str(copy), image, [cv2.IMWRITE_JPEG_QUALITY, 92])
            planted[kind][str(copy.relative_to(folder))] = str(path.relative_to(folder))
    return planted


def swap_labels(folder: Path, count: int, seed: int, besides: Iterable[str] = ()) -> list[str]:
    """Photos moved to another class: their new names. `besides`: names of those that stay."""
    rng = np.random.default_rng(seed)
    classes = sorted(path.name for path in folder.iterdir())
    stay = {folder / name for name in besides}
    pool = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in stay]
    moved = []
    for i, k in enumerate(rng.choice(len(pool), count, replace=False)):
        other = str(rng.choice([name for name in classes if name != pool[k].parent.name]))
        target = folder / other / f"planted_swapped_{i}{pool[k].suffix}"
        pool[k].rename(target)
        moved.append(str(target.relative_to(folder)))
    return moved
