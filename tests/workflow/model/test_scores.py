import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflow.model import scores

GOLD = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], float)
SCORES = np.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [0.1, 0.1, 0.8], [0.6, 0.3, 0.1]])


def test_accuracy_and_loss_of_exclusive_classes():
    assert scores.correct(GOLD, scores.decide(SCORES, True)).tolist() == [True, False, True, True]
    np.testing.assert_allclose(scores.log_loss(GOLD, SCORES, True), -np.log([0.7, 0.4, 0.8, 0.6]))


def test_labels_without_annotation_are_ignored():
    gold = np.array([[1, np.nan], [0, 1]])
    predicted = np.array([[0.9, 0.9], [0.2, 0.4]])
    assert scores.correct(gold, scores.decide(predicted, False)).tolist() == [True, False]
    np.testing.assert_allclose(scores.log_loss(gold, predicted, False), [-np.log(0.9), -np.log(0.8) - np.log(0.4)])


def test_thresholds_with_the_highest_f1():
    """In the middle between two scores; 0.5 if that is as good, if no document has the label, or if no score helps."""
    gold = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [0, 0, np.nan, 1], [0, 0, 0, 1]])
    predicted = np.array([[0.4, 0.7, 0.9, 0.2], [0.3, 0.45, 0.9, 0.2], [0.1, 0.1, 0.9, 0.2], [0.0, 0.4, 0.9, 0.2]])
    thresholds = scores.best_thresholds(gold, predicted)
    np.testing.assert_allclose(thresholds, [0.2, 0.5, 0.5, 0.1])
    assert scores.decide(predicted, False, thresholds)[:, 0].tolist() == [True, True, False, False]


@given(st.integers(0, 2**32), st.integers(1, 12), st.booleans())
def test_no_other_threshold_has_a_higher_f1(seed, n_docs, coarse):
    rng = np.random.default_rng(seed)
    gold, predicted = rng.choice([0, 1, np.nan], (n_docs, 3)), rng.random((n_docs, 3))
    predicted = predicted.round(1) if coarse else predicted

    def f1(thresholds) -> np.ndarray:
        return scores.f1_per_label(gold, scores.decide(predicted, False, thresholds))

    best = f1(scores.best_thresholds(gold, predicted))
    for threshold in np.unique(predicted):
        assert (best >= f1(threshold) - 1e-12).all()
    assert (best >= f1(0.5) - 1e-12).all()


def test_f1_equals_its_definition():
    decided = scores.decide(SCORES, True)
    # label 0: 2 true positives, 1 false positive; label 1: 1 false negative; label 2: 1 true positive
    np.testing.assert_allclose(scores.f1_per_label(GOLD, decided), [2 * 2 / (2 * 2 + 1), 0, 1])


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"), [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0)]
)
def test_wilson_equals_published_intervals(hits, n, low, high):
    """81 of 263: Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I."""
    assert scores.wilson(hits, n, 0.95) == pytest.approx((low, high), abs=1e-4)


def test_bootstrap_is_seeded_and_covers_the_estimate():
    rng = np.random.default_rng(0)
    gold = np.eye(2)[rng.integers(0, 2, 200)]
    decided = np.where(rng.random(200)[:, None] < 0.8, gold, 1 - gold) == 1
    low, high = scores.bootstrap_macro_f1(gold, decided, 0.95, 300, seed=1)
    assert (low, high) == scores.bootstrap_macro_f1(gold, decided, 0.95, 300, seed=1)
    assert low < scores.f1_per_label(gold, decided).mean() < high and 0.05 < high - low < 0.2


def test_calibration_of_a_confident_model_with_half_the_predictions_correct():
    gold = np.array([[1, 0], [0, 1]], float)
    table, error = scores.calibration(gold, np.array([[1.0, 0.0], [1.0, 0.0]]), True)
    assert table == [{"confidence": 1.0, "accuracy": 0.5, "count": 2}] and error == 0.5


def test_summary_has_accuracy_f1_and_the_number_of_documents():
    decided = scores.decide(SCORES, True)
    figures = scores.summarize(GOLD, SCORES, decided, list("abc"), exclusive=True, confidence=0.9, resamples=20, seed=0)
    assert figures["accuracy"] == 0.75 and figures["accuracy_low"] < 0.75 < figures["accuracy_high"]
    assert figures["f1"] == {"a": 0.8, "b": 0.0, "c": 1.0} and figures["documents"] == 4


@pytest.mark.parametrize(
    ("only_one", "only_other", "p"), [(0, 0, 1.0), (3, 0, 0.25), (0, 8, 1 / 128), (5, 5, 1.0), (1, 6, 0.125)]
)
def test_mcnemar_counts_documents_that_only_one_model_gets_right(only_one, only_other, p):
    one = np.array([True] * (only_one + 4) + [False] * only_other)
    other = np.array([False] * only_one + [True] * (4 + only_other))
    assert scores.mcnemar(one, other) == pytest.approx(p) == scores.mcnemar(other, one)
