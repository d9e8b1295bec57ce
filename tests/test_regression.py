"""The regression of all folds at once, against scikit-learn's, fitted fold by fold."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression

from vgg_flax.answers.scores import cross_entropy
from vgg_flax.training.regression import choose, fit

STRENGTH = 0.03


def make(columns, rows=60, classes=3, folds=5, seed=0):
    """Overlapping classes on columns of very different spread: features, labels, folds."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    centres = rng.normal(size=(classes, columns)) * 2 / np.sqrt(columns)
    features = (rng.normal(size=(rows, columns)) + centres[labels]) * 10 ** rng.uniform(-2, 2, columns) + 5
    return features.astype(np.float32), labels, np.arange(rows) // classes % folds


def theirs(result, features, labels, rows):
    """scikit-learn's model of some rows, on features standardised by our constants; logits and kernel of all."""
    inputs = (features.astype(np.float64) - result.mean) / result.std
    c = (2 if len(np.unique(labels)) == 2 else 1) / (STRENGTH * rows.sum())
    model = LogisticRegression(C=c, tol=1e-9, max_iter=10_000).fit(inputs[rows], labels[rows])
    return model, model.predict_proba(inputs)


@pytest.mark.parametrize("columns", [10, 100], ids=["fewer columns than rows", "in the span of the rows"])
@pytest.mark.parametrize("classes", [2, 3])
def test_the_model_of_all_rows_is_scikit_learns(columns, classes):
    features, labels, folds = make(columns, classes=classes)
    result = fit(features, labels, folds, STRENGTH, classes)
    model, expected = theirs(result, features, labels, np.ones(60, bool))
    kernel = np.concatenate([-model.coef_ / 2, model.coef_ / 2]) if classes == 2 else model.coef_
    np.testing.assert_allclose(result.kernel, kernel.T, atol=1e-3 * np.abs(kernel).max())
    logits = (features - result.mean) / result.std @ result.kernel + result.bias
    np.testing.assert_allclose(softmax(logits, axis=1), expected, atol=5e-4)
    assert result.converged and result.iterations == len(result.history) < 100
    assert result.history[-1]["train_loss"] == pytest.approx(cross_entropy(np.log(expected), labels), abs=1e-4)
    assert result.history[-1]["train_accuracy"] == pytest.approx((expected.argmax(1) == labels).mean())


@pytest.mark.parametrize("columns", [10, 100])
def test_out_of_fold_logits_are_those_of_five_separate_fits(columns):
    features, labels, folds = make(columns)
    result = fit(features, labels, folds, STRENGTH, 3)
    expected = np.zeros((60, 3))
    for fold in range(5):
        expected[folds == fold] = theirs(result, features, labels, folds != fold)[1][folds == fold]
    np.testing.assert_allclose(softmax(result.out_of_fold, axis=1), expected, atol=5e-4)
    assert result.history[-1]["val_loss"] == pytest.approx(cross_entropy(result.out_of_fold, labels), rel=1e-4)
    accuracy = (result.out_of_fold.argmax(1) == labels).mean()
    assert result.history[-1]["val_accuracy"] == pytest.approx(accuracy)


def test_a_fold_apart_teaches_no_other_member():
    features, labels, folds = make(10)
    result = fit(features, labels, folds, STRENGTH, 3, apart=4)
    for fold in range(5):
        rows = (folds != fold) & (folds != 4)
        expected = theirs(result, features, labels, rows)[1][folds == fold]
        np.testing.assert_allclose(softmax(result.out_of_fold[folds == fold], axis=1), expected, atol=5e-4)
    model, _ = theirs(result, features, labels, np.ones(60, bool))
    np.testing.assert_allclose(result.kernel, model.coef_.T, atol=1e-3 * np.abs(model.coef_).max())
    apart = folds == 4
    loss = cross_entropy(result.out_of_fold[apart], labels[apart])
    assert result.history[-1]["val_loss"] == pytest.approx(loss, rel=1e-4)


def test_labels_of_a_fold_do_not_touch_its_own_logits():
    """A shared line search or stopping rule would let them in by the back door."""
    features, labels, folds = make(100)
    mine = folds == 2
    flipped = np.where(mine, (labels + 1) % 3, labels)
    for iterations in (3, 1000):
        before = fit(features, labels, folds, STRENGTH, 3, iterations=iterations)
        after = fit(features, flipped, folds, STRENGTH, 3, iterations=iterations)
        np.testing.assert_array_equal(before.out_of_fold[mine], after.out_of_fold[mine])
        assert not np.allclose(before.out_of_fold[~mine], after.out_of_fold[~mine], atol=0.01)


def test_the_same_input_gives_the_same_bits():
    features, labels, folds = make(100)
    first, second = (fit(features, labels, folds, STRENGTH, 3) for _ in range(2))
    for name in ("kernel", "bias", "mean", "std", "out_of_fold"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    sets = {"all": np.arange(100), "half": np.arange(50)}
    assert choose(features, labels, folds, sets, 3) == choose(features, labels, folds, sets, 3)


def test_the_choice_is_what_separate_fits_would_choose():
    """The columns that know the label win, at a strength whose out-of-fold loss a fit from zero confirms."""
    features, labels, folds = make(10)
    noise = np.random.default_rng(1).normal(size=(60, 10)).astype(np.float32)
    sets = {"noise": np.arange(10, 20), "signal": np.arange(10), "both": np.arange(20)}
    candidates = choose(np.hstack([features, noise]), labels, folds, sets, 3)
    assert candidates[0].columns == "signal" and candidates[0].width == 10
    assert [c.loss for c in candidates] == sorted(c.loss for c in candidates)
    assert {c.columns for c in candidates} == set(sets)
    for candidate in (c for c in candidates if c.columns == "signal"):
        again = fit(features, labels, folds, candidate.strength, 3)
        loss = cross_entropy(again.out_of_fold / candidate.temperature, labels)
        assert candidate.loss == pytest.approx(loss, rel=0.02)
        accuracy = (again.out_of_fold.argmax(1) == labels).mean()
        assert candidate.accuracy == pytest.approx(
            accuracy, abs=2.5 / 60
        )  # a choice stops early: undecided rows differ
        assert candidate.temperature >= 1


def test_equal_losses_go_to_fewer_columns_and_more_regularisation():
    _, labels, folds = make(10)
    sets = {"wide": np.arange(20), "narrow": np.arange(10)}
    candidates = choose(np.zeros((60, 20), np.float32), labels, folds, sets, 3)
    tied = [c for c in candidates if c.loss == candidates[0].loss]
    assert {c.columns for c in tied} == set(sets) and len({c.strength for c in tied}) > 1
    assert candidates[0].columns == "narrow"
    assert candidates[0].strength == max(c.strength for c in tied)


def test_views_teach_but_are_not_scored_and_neither_is_the_fold_apart():
    """Labels of rows that don't count are wrong here: they would show in the accuracy."""
    features, labels, folds = make(10)
    features[:, :3] = 100 * np.eye(3)[labels]
    rng = np.random.default_rng(0)
    view = features + rng.normal(size=features.shape).astype(np.float32)
    rows, both, scored = np.vstack([features, view]), np.tile(folds, 2), np.arange(120) < 60
    wrong = np.append(labels, np.where(np.arange(60) < 3, (labels + 1) % 3, labels))
    candidates = choose(rows, wrong, both, {"all": np.arange(10)}, 3, scored=scored)
    assert candidates[0].accuracy == 1
    history = fit(rows, wrong, both, 0.1, 3, scored=scored).history
    assert history[-1]["val_accuracy"] == 1 and history[-1]["train_accuracy"] < 1
    apart = np.where(folds == 4, (labels + 1) % 3, labels)
    assert choose(features, apart, folds, {"all": np.arange(10)}, 3, apart=4)[0].accuracy == 1


def test_rows_whose_class_the_member_never_saw_are_not_scored():
    features, labels, folds = make(10)
    labels[7] = 3  # alone in its class
    candidates = choose(features, labels, folds, {"all": np.arange(10)}, 4)
    assert candidates[0].loss < np.log(4)
    result = fit(features, labels, folds, STRENGTH, 4)
    assert result.converged and np.isfinite(result.out_of_fold).all()
    assert result.out_of_fold[7].argmax() != 3
    logits = (features - result.mean) / result.std @ result.kernel + result.bias
    assert softmax(logits[7])[3] > softmax(result.out_of_fold[7])[3]


@pytest.mark.parametrize("classes", [1, 3])
def test_rows_of_a_single_class(classes):
    features, labels, folds = make(10)
    result = fit(features, 0 * labels, folds, STRENGTH, classes)
    assert result.converged and (result.out_of_fold.argmax(1) == 0).all()
    assert result.history[-1]["val_loss"] < 1e-3
    assert choose(features, 0 * labels, folds, {"all": np.arange(10)}, classes)[0].accuracy == 1


def test_constant_features_leave_the_frequencies_of_the_classes():
    _, labels, folds = make(10)
    labels = np.where(labels == 2, 0, labels)
    result = fit(np.full((60, 10), 7, np.float32), labels, folds, STRENGTH, 3)
    np.testing.assert_allclose(result.kernel, 0, atol=1e-6)
    np.testing.assert_allclose(softmax(result.bias), [2 / 3, 1 / 3, 0], atol=1e-3)


def test_copies_of_rows_are_no_trouble_in_the_span():
    features, labels, folds = make(100, rows=30)
    features, labels, folds = (np.concatenate([part, part]) for part in (features, labels, folds))
    result = fit(features, labels, folds, STRENGTH, 3)
    model, _ = theirs(result, features, labels, np.ones(60, bool))
    np.testing.assert_allclose(result.kernel, model.coef_.T, atol=1e-3 * np.abs(model.coef_).max())


def test_iterations_are_capped_and_reported():
    features, labels, folds = make(10)
    told = []
    result = fit(features, labels, folds, STRENGTH, 3, iterations=1, advance=told.append)
    assert (result.iterations, len(result.history), result.converged, told) == (1, 1, False, [1])
    assert result.history[0]["train_loss"] < np.log(3)
    candidates = choose(features, labels, folds, {"all": np.arange(10)}, 3, iterations=1, advance=told.append)
    assert {c.iterations for c in candidates} == {1} and sum(told) == 1 + len(candidates)


def test_check_stops_it():
    class Stop(Exception):
        pass

    def stop():
        raise Stop

    features, labels, folds = make(10)
    with pytest.raises(Stop):
        fit(features, labels, folds, STRENGTH, 3, check=stop)
    with pytest.raises(Stop):
        choose(features, labels, folds, {"all": np.arange(10)}, 3, check=stop)
