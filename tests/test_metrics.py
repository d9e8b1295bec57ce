"""The figures of the report, against numbers worked out by hand; and the table that they are read from."""

import dataclasses
import json
import math

import numpy as np
import pytest

from vgg_flax.answers import predictions as tables
from vgg_flax.answers.judge import Judge
from vgg_flax.answers.predictions import Predictions
from vgg_flax.answers.scores import cross_entropy, fit_temperature
from vgg_flax.errors import UserError
from vgg_flax.insight import metrics
from vgg_flax.insight.metrics import evaluate, mistakes

LABELS = np.array([0] * 8 + [1] * 2)
LOGITS = np.zeros((10, 2), np.float32)
LOGITS[:7, 0] = 2.0  # seven of class 0 right
LOGITS[7, 1] = 4.0  # one of class 0 wrong, and sure of it
LOGITS[8, 1] = 2.0  # one of class 1 right
LOGITS[9, 0] = 1.0  # one of class 1 wrong


def table(logits=LOGITS, labels=LABELS, classes="ab", splits=None, folds=None, own_val=False):
    count = len(labels)
    names = np.array([f"{i}.jpg" for i in range(count)])
    splits = np.full(count, "test") if splits is None else np.asarray(splits)
    folds = np.full(count, -1) if folds is None else np.asarray(folds)
    classes = np.array(list(classes))
    unknown = np.full(count, np.nan), np.full((count, 5), -1), np.array([], str)
    return Predictions(classes, names, names, splits, labels, logits, folds, *unknown, np.array(own_val))


def test_metrics_by_hand():
    result = evaluate(table(), Judge())
    assert result["accuracy"] == 0.8
    assert result["majority_baseline"] == 0.8
    assert result["confusion_matrix"] == [[7, 1], [1, 1]]
    figures = {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2}
    assert result["per_class"]["b"].items() >= figures.items()
    assert result["per_class"]["a"]["precision"] == 7 / 8
    # Wilson (1927), z = 1.959964, n = 10, p = 0.8.
    assert result["accuracy_95"] == pytest.approx([0.4901625, 0.9433178], abs=1e-6)
    expected = (8 * math.log1p(math.exp(-2)) + math.log1p(math.exp(4)) + math.log1p(math.exp(1))) / 10
    assert result["loss"] == pytest.approx(expected, rel=1e-6)
    json.dumps(result)


def test_a_class_that_never_occurs_is_no_division_by_zero():
    padded = np.pad(LOGITS, ((0, 0), (0, 1)), constant_values=-9)
    result = evaluate(table(padded, classes="abc"), Judge())
    assert result["per_class"]["c"].items() >= {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}.items()


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
    rows = mistakes(table(), Judge())
    assert [row[:2] for row in rows] == [(7, 1), (9, 0)]
    assert rows[0][2] == pytest.approx(1 / (1 + math.exp(-4)))


def test_temperature_changes_the_loss_and_never_a_label():
    cold, warm = evaluate(table(), Judge()), evaluate(table(), Judge(2.0))
    assert warm["accuracy"] == cold["accuracy"] and warm["confusion_matrix"] == cold["confusion_matrix"]
    assert warm["loss"] == pytest.approx(cross_entropy(LOGITS / 2, LABELS))


def test_probabilities_are_a_softmax_of_what_the_temperature_leaves():
    from scipy.special import softmax

    np.testing.assert_allclose(Judge(3.0).probabilities(LOGITS), softmax(LOGITS / 3, -1), rtol=1e-6)


@pytest.mark.parametrize(("folds", "own_val", "expected"), [
    ([-1] * 6, False, [2, 3]),  # no folds: the val split
    ([0, 1, 0, 1, -1, -1], False, [0, 1, 2, 3]),  # every picture answered by a model that has not seen it
    ([0, 1, 5, 5, -1, -1], True, [2, 3]),  # the user's own val folder stays apart
])  # fmt: skip
def test_validation_never_holds_a_picture_that_the_answering_model_has_seen(folds, own_val, expected):
    splits = ["train", "train", "val", "val", "test", "test"]
    some = table(LOGITS[:6], LABELS[:6], splits=splits, folds=folds, own_val=own_val).validation()
    assert some.names.tolist() == [f"{i}.jpg" for i in expected]


def test_calibration_reads_folds_where_there_are_any_and_never_the_test():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    logits = (rng.normal(size=(300, 2)) + np.eye(2)[labels]).astype(np.float32)
    logits[200:] = -100 * np.eye(2)[labels[200:]]  # a test that is all wrong, and sure of it
    splits = ["train"] * 100 + ["val"] * 100 + ["test"] * 100
    folded = table(logits, labels, splits=splits, folds=[0] * 200 + [-1] * 100)
    plain = table(logits, labels, splits=splits)
    assert folded.judge().temperature == fit_temperature(logits[:200], labels[:200])
    assert plain.judge().temperature == fit_temperature(logits[100:200], labels[100:200])


def test_predictions_come_back_from_the_disk_as_they_went(tmp_path):
    before = table(splits=["train", "val"] * 5, folds=[0, 1] * 5)
    before.save(tmp_path / "predictions.npz")
    after = tables.load(tmp_path / "predictions.npz")
    for name in tables.ARRAYS:
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:50], lambda data: b"PK" + bytes(99)])
def test_damaged_predictions_are_one_clear_line(tmp_path, damage):
    path = tmp_path / "predictions.npz"
    table().save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="holds no predictions"):
        tables.load(path)


@pytest.mark.parametrize("changed", [{"nearest": np.full((10, 5), 3)}, {"names": np.array(["a"])}])
def test_predictions_whose_arrays_do_not_fit_each_other_are_refused(tmp_path, changed):
    dataclasses.replace(table(splits=["train", "val"] * 5), **changed).save(tmp_path / "predictions.npz")
    with pytest.raises(UserError, match="its arrays do not fit each other"):
        tables.load(tmp_path / "predictions.npz")


def doubts(some):
    return metrics.warnings(some, evaluate(some.select("test"), Judge()))


def many(right, labels=LABELS, splits=None):
    """Ten copies of a table in which the model answers as `right` says."""
    logits = np.eye(2, dtype=np.float32)[np.tile(right, 10)]
    return table(logits, np.tile(labels, 10), splits=splits)


def test_a_model_that_answers_one_class_only_is_warned_of():
    constant = table(np.tile([[3.0, 0.0]], (100, 1)).astype(np.float32), np.tile(LABELS, 10))
    [first, second] = doubts(constant)
    assert "calls every test picture 'a'" in first
    assert "80.0% is no better than the 80.0% of always answering 'a'" in second
    val = table(np.tile([[3.0, 0.0]], (100, 1)).astype(np.float32), np.tile(LABELS, 10), splits=["val", "test"] * 50)
    assert "calls every validation picture 'a'" in doubts(val)[0]


def test_an_accuracy_below_always_guessing_the_largest_class_is_warned_of():
    worse = np.array([0] * 6 + [1] * 2 + [0, 1])  # 7 of 10 right, where guessing gives 8
    [only] = doubts(many(worse))
    assert "test accuracy 70.0% is lower than the 80.0% of always answering 'a'" in only
    assert not doubts(many(LABELS))


def test_a_class_with_fewer_than_five_test_pictures_is_warned_of():
    [only] = doubts(table(np.eye(2, dtype=np.float32)[LABELS]))  # two of b, all right
    assert "fewer than 5 test pictures of 'b' (2)" in only


def test_f1_is_the_mean_of_the_classes_that_are_there():
    padded = np.pad(LOGITS, ((0, 0), (0, 1)), constant_values=-9)
    assert evaluate(table(padded, classes="abc"), Judge())["macro_f1"] == evaluate(table(), Judge())["macro_f1"]


def test_calibration_error_is_the_gap_between_sure_and_right():
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    labels = np.array([0, 1, 0, 1])  # at 0.9 one of two is right: a gap of 0.4 for each; 0.4 and 0.2 for the others
    assert metrics.calibration_error(probabilities, labels) == pytest.approx((0.8 + 0.4 + 0.2) / 4)
    assert metrics.calibration_error(np.eye(2)[labels], labels) == 0  # as sure as right, in the last bin


def random_table(count=200, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=count)
    logits = (rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]).astype(np.float32)
    return table(logits, labels, classes="abcd"[:classes])


@pytest.mark.parametrize("classes", [2, 4])
def test_metrics_are_scikit_learns(classes):
    from scipy.special import softmax
    from sklearn import metrics as theirs

    some, judge = random_table(classes=classes), Judge(1.3)
    labels, predicted = some.labels, some.logits.argmax(-1)
    ours, p = evaluate(some, judge), judge.probabilities(some.logits).astype(np.float64)
    exact = softmax(some.logits.astype(np.float64) / 1.3, -1)
    assert ours["accuracy"] == theirs.accuracy_score(labels, predicted)
    assert ours["balanced_accuracy"] == pytest.approx(theirs.balanced_accuracy_score(labels, predicted), rel=1e-14)
    assert ours["macro_f1"] == pytest.approx(theirs.f1_score(labels, predicted, average="macro"), rel=1e-14)
    assert ours["loss"] == pytest.approx(theirs.log_loss(labels, exact), rel=1e-12)
    brier = theirs.brier_score_loss(np.eye(classes)[labels], p / p.sum(1, keepdims=True), scale_by_half=False)
    assert ours["brier"] == pytest.approx(brier, rel=1e-6)
    assert ours["confusion_matrix"] == theirs.confusion_matrix(labels, predicted).tolist()
    plain = softmax(some.logits.astype(np.float64), -1)
    for i, one in enumerate(ours["per_class"].values()):
        assert one["roc_auc"] == theirs.roc_auc_score(labels == i, plain[:, i])
        assert one["average_precision"] == theirs.average_precision_score(labels == i, plain[:, i])
    if classes == 4:
        assert ours["top_k"] == {str(k): theirs.top_k_accuracy_score(labels, some.logits, k=k) for k in (2, 3)}
    table_ = theirs.precision_recall_fscore_support(labels, predicted)
    for column, metric in enumerate(("precision", "recall", "f1", "support")):
        assert [one[metric] for one in ours["per_class"].values()] == pytest.approx(table_[column].tolist(), rel=1e-14)


def test_bootstrap_intervals_cover_the_value_and_shrink_with_the_pictures():
    few, many = evaluate(random_table(100), Judge()), evaluate(random_table(1600), Judge())
    for name in ("balanced_accuracy", "macro_f1", "loss", "brier"):
        widths = []
        for one in (few, many):
            low, high = one[f"{name}_95"]
            assert low < one[name] < high
            widths.append(high - low)
        assert 3 < widths[0] / widths[1] < 5.5  # the square root of 16 is 4


def test_a_judge_lets_the_sure_and_familiar_through():
    import dataclasses

    some = dataclasses.replace(table(), familiarity=np.array([0.5] + [2.0] * 9))
    judged = evaluate(some, Judge(sure=0.85))["judged"]  # 0.88, 0.98 and 0.73 are the probabilities; the first unlike
    assert judged["coverage"] == 0.8 and judged["precision"] == 7 / 8
    assert (judged["unsure"], judged["unlike"]) == (1, 1)


def test_folds_have_a_mean_and_a_spread():
    found = metrics.evaluate_run(table(splits=["train"] * 10, folds=[0, 1] * 5), Judge())
    assert found["val"]["folds"]["accuracy"] == [1.0, 0.6]
    assert found["val"]["folds"]["std"] == pytest.approx(0.2 * math.sqrt(2))
    assert found["test"]["count"] == 0


def test_areas_are_unknown_where_a_class_never_or_always_occurs():
    padded = np.pad(LOGITS, ((0, 0), (0, 1)), constant_values=-9)
    assert evaluate(table(padded, classes="abc"), Judge())["per_class"]["c"]["roc_auc"] is None
    assert evaluate(table(LOGITS[:3], LABELS[:3]), Judge())["roc_auc"] is None
