"""The cheap part of the doctor, for every training run: from what the run has computed anyway."""

from __future__ import annotations

from typing import Any

import numpy as np

from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictions import Predictions
from vgg_flax.console import counted
from vgg_flax.data.photos import Photos
from vgg_flax.files import typed
from vgg_flax.insight import labels, neighbours

MOST = 100  # photos of a kind that are named


def check_run(photos: Photos, predictions: Predictions, judge: Judge) -> dict[str, Any]:
    """Suspected wrong labels, groups of near-copies and outliers: JSON types, for the report.

    Args:
      photos: of the run.
      predictions: a row for each of them, with its familiarity.
      judge: whose temperature makes probabilities of logits.
    """
    folded = predictions.folds >= 0
    learned = ("train", "val") if folded.any() else ("train",)
    unseen = np.flatnonzero(folded | ~np.isin(predictions.splits, learned))
    given = predictions.labels[unseen]
    suspects = labels.suspects(judge.probabilities(predictions.logits[unseen]), given) if len(unseen) else []
    known = np.flatnonzero(predictions.familiarity > 0)
    far = known[neighbours.outliers(1 / predictions.familiarity[known])]
    return {
        "wrong_labels": len(suspects),
        "near_copy_groups": photos.found.get("near_copy_groups", 0),
        "outliers": len(far),
        "first_wrong_labels": [
            {
                "file": photos.names[unseen[one.row]],
                "label": photos.classes[given[one.row]],
                "suggested": photos.classes[one.suggested],
                "probability": round(one.probability, 4),
            }
            for one in suspects[:MOST]
        ],
        "first_outliers": [photos.names[row] for row in far[:MOST]],
    }


def in_one_line(found: dict[str, Any], data: str) -> str:
    """What `check_run` found, and what looks closer."""
    words = [
        counted(found[name], noun)
        for name, noun in (
            ("wrong_labels", "suspected wrong label"),
            ("near_copy_groups", "near-copy group"),
            ("outliers", "outlier"),
        )
        if found[name]
    ]
    return f"doctor: {', '.join(words) or 'nothing at first sight'}; see vgg-flax doctor {typed(data)}"
