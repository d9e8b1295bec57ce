"""The part of a picture that the model sees."""

from __future__ import annotations

import math

Shares = tuple[float, float, float, float]
REGIONS: dict[str, Shares | None] = {"full": (0.0, 0.0, 1.0, 1.0), "center": None}


def shares(region: str) -> Shares | None:
    """Left, top, width and height of a region, as shares of the picture's sides.

    Args:
      region: `full`; `center`, the largest square in the middle, for which the answer is None; or four numbers in 0..1
        with commas between them.

    Raises:
      ValueError: anything else.
    """
    if region in REGIONS:
        return REGIONS[region]
    try:
        left, top, width, height = (float(part) for part in region.split(","))
    except ValueError:
        left = top = width = height = math.nan
    if not (0 <= left < 1 and 0 <= top < 1 and 0 < width <= 1 - left + 1e-6 and 0 < height <= 1 - top + 1e-6):
        raise ValueError(
            f"region is {region!r}, expected full, center, or left,top,width,height as shares of the picture, "
            "such as 0.25,0,0.5,1."
        )
    return left, top, width, height
