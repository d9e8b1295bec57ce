"""comparison.html: runs side by side on one page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vgg_flax.answers.predictions import Predictions
from vgg_flax.data.photos import Photos
from vgg_flax.files import write_atomic
from vgg_flax.insight import compare
from vgg_flax.report import page
from vgg_flax.report.album import Album

MOST = 200  # photos on which runs differ, on the page


def write(
    path: Path,
    names: Sequence[str],
    tests: Sequence[dict[str, Any]],
    settings: Sequence[dict[str, Any]],
    tables: Sequence[Predictions],
    photos: Photos | None,
    missing: str = "",
) -> compare.Shared:
    """Write the page.

    Args:
      names: of the runs.
      tests: their `metrics.evaluate` of the test.
      settings: theirs.
      tables: their predictions of the test photos.
      photos: of the first run; None where they are gone.
      missing: why there are no pictures, in a line.

    Returns:
      The photos that were compared.
    """
    shared = compare.share(tables)
    differ = shared.differ
    pictures = _pictures(shared.rows[differ[:MOST]], tables[0], photos)
    rows = [
        {
            "name": str(shared.names[i]),
            "truth": str(shared.truths[i]),
            "answers": [(str(answer), bool(answer == shared.truths[i])) for answer in shared.answers[i]],
            "picture": picture,
        }
        for i, picture in zip(differ, pictures, strict=False)
    ]
    text = page.render(
        "comparison.html.jinja",
        title=f"Comparison: {', '.join(names)}",
        names=names,
        figures=compare.figures(tests),
        differing=compare.differing(settings),
        shared=len(shared.names),
        contested=shared.contested,
        accuracies=shared.right.mean(0).tolist() if len(shared.names) else [],
        sentences=compare.all_in_words(compare.pairs(shared), names),
        differ=len(differ),
        photos=rows,
        missing=missing,
    )
    write_atomic(path, text)
    return shared


def _pictures(rows: np.ndarray, table: Predictions, photos: Photos | None) -> list[str]:
    """A `data:` URI for each of these rows, empty where the photo is gone."""
    if photos is None:
        return [""] * len(rows)
    album = Album(photos, table)
    return [album.thumbnail(int(row)) for row in rows]
