"""When a model may answer: thresholds against numbers worked out by hand, neighbours against scikit-learn's."""

import numpy as np
import pytest

from vgg_flax.answers import judge as judges
from vgg_flax.answers.judge import Judge, References, calibrate, with_references


def logits_of(probabilities):
    """Of two classes, the first with these probabilities."""
    p = np.asarray(probabilities, np.float64)
    return np.log(np.stack([p, 1 - p], -1)).astype(np.float32)


def test_sure_is_the_least_probability_from_which_on_answers_are_right_often_enough():
    # 0.99, 0.95 and 0.9 right, 0.8 wrong, 0.7 right: precision 1, 1, 1, 3/4, 4/5
    probabilities, right = np.array([0.7, 0.99, 0.8, 0.95, 0.9]), np.array([1, 1, 0, 1, 1], bool)
    assert judges._sure(probabilities, right, 0.95) == (0.9, True)
    assert judges._sure(probabilities, right, 0.8) == (0.7, True)
    assert judges._sure(probabilities, np.zeros(5, bool), 0.5) == (1.0, False)


def test_equal_probabilities_stand_or_fall_together():
    assert judges._sure(np.array([0.9, 0.9, 0.9]), np.array([True, True, False]), 0.95) == (1.0, False)


def test_candidates_cover_the_truth_of_pictures_to_come_and_are_never_empty():
    rng = np.random.default_rng(0)
    centres = 1.5 * np.eye(4, dtype=np.float32)

    def draw(count):
        labels = rng.integers(4, size=count)
        return (centres[labels] + rng.normal(size=(count, 4))).astype(np.float32) * 3, labels

    covered = []
    for _ in range(30):
        judge = calibrate(*draw(400), min_precision=0.95)
        logits, labels = draw(400)
        judged = judge.judge(logits)
        assert all(one.candidates[0] == one.label for one in judged)
        covered.append(np.mean([label in one.candidates for one, label in zip(judged, labels, strict=True)]))
    assert 0.945 < np.mean(covered) < 0.97  # the mean of 30, its standard error 0.003


def test_with_few_pictures_nothing_can_be_ruled_out():
    judge = calibrate(logits_of([0.9] * 18), np.zeros(18, int), 0.95)
    assert judge.candidate == 0.0 and judge.judge(logits_of([0.999]))[0].candidates == (0, 1)


def test_distances_and_the_threshold_are_scikit_learns():
    neighbors = pytest.importorskip("sklearn.neighbors")
    rng = np.random.default_rng(1)
    averages = rng.gamma(1.0, size=(300, 64)).astype(np.float32)
    judge = with_references(Judge(), averages, np.zeros(300, int), [str(i) for i in range(300)])
    unit = averages / np.linalg.norm(averages, axis=1, keepdims=True)
    model = neighbors.NearestNeighbors(n_neighbors=6, metric="sqeuclidean", algorithm="brute").fit(unit)
    own = model.kneighbors(unit)[0][:, 5]  # the first is the picture itself
    assert judge.distance == pytest.approx(np.quantile(own, 0.99), rel=2e-3)  # float16 references
    new = rng.gamma(1.0, size=(20, 64)).astype(np.float32)
    far, who = model.kneighbors(new / np.linalg.norm(new, axis=1, keepdims=True), n_neighbors=5)
    judged = judge.judge(np.zeros((20, 2), np.float32), new)
    np.testing.assert_allclose([one.familiarity for one in judged], judge.distance / far[:, 4], rtol=5e-3)
    assert [set(one.nearest) for one in judged] == [set(row) for row in who]


def test_a_stranger_is_unlike_whatever_the_probability_and_a_doubt_is_unsure():
    rng = np.random.default_rng(2)
    faces = np.abs(rng.normal(size=(100, 16))) * ([1.0] * 8 + [0.01] * 8)
    judge = with_references(Judge(sure=0.8), faces.astype(np.float32), np.zeros(100, int), ["x"] * 100)
    like, unlike = faces[:1] + 0.01, faces[:1, ::-1]
    verdicts = [judge.judge(logits_of([p]), np.float32(a))[0] for p, a in ((0.9, like), (0.7, like), (0.999, unlike))]
    assert [one.verdict for one in verdicts] == ["label", "unsure", "unlike"]
    assert [one.label for one in verdicts] == [0, 0, 0]
    assert verdicts[2].familiarity < 1 < verdicts[0].familiarity <= judges.MOST_FAMILIAR


def test_a_copy_of_many_training_photos_has_a_finite_familiarity():
    features = np.ones((10, 4), np.float32)
    judge = with_references(Judge(), features, np.zeros(10, int), ["x"] * 10)
    assert judge.judge(logits_of([0.6]), features[:1])[0].familiarity <= judges.MOST_FAMILIAR


def test_references_are_kept_evenly_by_class(monkeypatch):
    monkeypatch.setattr(judges, "MOST_REFERENCES", 30)
    labels = np.array([0] * 100 + [1] * 10 + [2] * 50)
    kept = judges._evenly(labels, 30)
    assert np.bincount(labels[kept]).tolist() == [10, 10, 10] and (np.diff(kept) > 0).all()
    judge = with_references(Judge(), np.random.default_rng(0).random((160, 8)), labels, [str(i) for i in range(160)])
    assert len(judge.references.names) == len(judge.references.features) == 30


def test_too_few_photos_leave_familiarity_unknown():
    judge = with_references(Judge(), np.ones((5, 4), np.float32), np.zeros(5, int), ["x"] * 5)
    assert judge.references is None and judge.judge(logits_of([0.6]), np.ones((1, 4)))[0].familiarity is None


def test_what_was_learned_from_is_recognised_by_content():
    seen = bytes(range(32)) + bytes([7] * 32)
    assert Judge(seen=seen).has_seen([bytes(range(32)).hex(), "00" * 32]).tolist() == [True, False]


def test_references_are_equal_by_value():
    one = References(np.ones((2, 3), np.float16), ("a", "b"))
    assert one == References(np.ones((2, 3), np.float16), ("a", "b")) != References(one.features, ("a", "c"))
