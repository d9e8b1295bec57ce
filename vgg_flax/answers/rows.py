"""An answer as a row of text: the same columns in CSV and JSON, whoever writes them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # JAX takes seconds to import, and nothing here needs it
    from vgg_flax.answers.predictor import Prediction

SAID = ("verdict", "label", "probability", "candidates", "familiarity", "nearest", "probabilities")


def said(prediction: Prediction | None, classes: Sequence[str], topk: int | None = None) -> dict[str, Any]:
    """{column: value} of a prediction, JSON types; every value None where there is no prediction.

    Args:
      classes: names, in the order of the probabilities.
      topk: so many of the most probable classes; unset: all.
    """
    if prediction is None:
        return dict.fromkeys(SAID)
    order = (-prediction.probabilities).argsort(kind="stable")[:topk]
    familiarity = prediction.familiarity
    values = (
        prediction.verdict,
        prediction.label,
        round(prediction.probability, 6),
        list(prediction.candidates),
        None if familiarity is None else round(familiarity, 4),
        list(prediction.nearest),
        {classes[i]: round(float(prediction.probabilities[i]), 6) for i in order},
    )
    return dict(zip(SAID, values, strict=True))


def json_line(row: dict[str, Any]) -> str:
    """UTF-8, also of a file whose name is none: its odd bytes become escapes such as \\udcff."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return json.dumps(row) if any("\ud800" <= character <= "\udfff" for character in text) else text


def csv_line(cells: Iterable[Any]) -> str:
    """Lists and probabilities are JSON, so that any class name can be read back."""
    text = io.StringIO()
    plain = [json.dumps(cell, ensure_ascii=False) if isinstance(cell, list | dict) else cell for cell in cells]
    csv.writer(text, lineterminator="").writerow(plain)
    return text.getvalue()
