"""The figures of the report, against numbers worked out by hand."""

import json
import math

import numpy as np
import pytest

from vgg_flax.answers.scores import cross_entropy, fit_temperature
from vgg_flax.insight.metrics import evaluate, mistakes

LABELS = np.array([0] * 8 + [1] * 2)
LOGITS = np.zeros((10, 2), np.float32)
LOGITS[:7, 0] = 2.0  # seven of class 0 right
LOGITS[7, 1] = 4.0  # one of class 0 wrong, and sure of it
LOGITS[8, 1] = 2.0  # one of class 1 right
LOGITS[9, 0] = 1.0  # one of class 1 wrong


def test_metrics_by_hand():
    result = evaluate(LOGITS, LABELS, ("a", "b"), 1.0)
    assert result["accuracy"] == 0.8
    assert result["majority_baseline"] == 0.8
    assert result["confusion_matrix"] == [[7, 1], [1, 1]]
    assert result["per_class"]["b"] == {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert result["per_class"]["a"]["precision"] == 7 / 8
    # Wilson (1927), z = 1.959964, n = 10, p = 0.8.
    assert result["accuracy_95"] == pytest.approx([0.4901625, 0.9433178], abs=1e-6)
    expected = (8 * math.log1p(math.exp(-2)) + math.log1p(math.exp(4)) + math.log1p(math.exp(1))) / 10
    assert result["loss"] == pytest.approx(expected, rel=1e-6)
    json.dumps(result)


def test_a_class_that_never_occurs_is_no_division_by_zero():
    result = evaluate(LOGITS, LABELS, ("a", "b", "c")[:2], 1.0) | evaluate(
        np.pad(LOGITS, ((0, 0), (0, 1)), constant_values=-9), LABELS, ("a", "b", "c"), 1.0
    )
    assert result["per_class"]["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_a_loss_that_is_no_number_stays_one():
    assert np.isnan(cross_entropy(np.array([[np.nan, 0.0], [1.0, 0.0]]), np.array([0, 1])))
    assert cross_entropy(np.array([[1e3, 0.0]]), np.array([0])) == 0.0


def test_temperature_cools_an_overconfident_model():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 2000)
    honest = rng.normal(size=(2000, 3)) + 2 * np.eye(3)[labels]
    probabilities = np.exp(2 * honest) / np.exp(2 * honest).sum(-1, keepdims=True)
    drawn = np.array([rng.choice(3, p=row) for row in probabilities])  # labels that 2 * honest calibrates exactly
    temperature = fit_temperature(5 * 2 * honest, drawn)
    assert temperature == pytest.approx(5, rel=0.1)
    assert cross_entropy(10 * honest / temperature, drawn) < cross_entropy(10 * honest, drawn)


def test_temperature_never_sharpens():
    assert fit_temperature(np.eye(2)[[0, 1, 0]] * 3, np.array([0, 1, 0])) == 1.0


def test_mistakes_come_most_confident_first():
    rows = mistakes(LOGITS, LABELS, 1.0)
    assert [row[:2] for row in rows] == [(7, 1), (9, 0)]
    assert rows[0][2] == pytest.approx(1 / (1 + math.exp(-4)))
