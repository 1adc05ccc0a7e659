"""Errors by kind, and labels that look wrong."""

import numpy as np

from workflow.model.errors import Facts, by_kind, doubtful


def test_errors_are_counted_in_ranges_that_double():
    documents = [Facts(0, 0, 0), Facts(1, 1, 0), Facts(2, 1, 1), Facts(3, 1, 0), Facts(4, 2, 0), Facts(7, 2, 9)]
    rows = by_kind(documents, np.array([True, True, False, True, False, True]))
    found = [(row["value"], row["documents"], row["errors"]) for row in rows if row["kind"] == "tokens"]
    assert found == [("0", 1, 0), ("1", 1, 0), ("2 to 3", 2, 1), ("4 to 7", 2, 1)]
    found = [(row["value"], row["documents"], row["errors"]) for row in rows if row["kind"] == "unknown pieces"]
    assert found == [("0", 4, 1), ("1", 1, 1), ("8 to 15", 1, 0)]
    assert {row["kind"] for row in rows} == {"tokens", "sentences", "unknown pieces"}


def test_labels_that_were_changed_look_wrong():
    """A model that is mostly right, and sure of it: it doubts the labels that were changed, and no others."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 300)
    scores = np.full((300, 3), 0.05) + 0.85 * np.eye(3)[truth] + rng.uniform(0, 0.02, (300, 3))
    scores /= scores.sum(axis=1, keepdims=True)
    changed = [3, 50, 200]
    labels = truth.copy()
    labels[changed] = (truth[changed] + 1) % 3
    scores[changed] = np.full(3, 0.02) + 0.94 * np.eye(3)[truth[changed]]
    unsure = 100
    scores[unsure] = np.where(np.arange(3) == truth[unsure], 0.32, 0.34)  # wrong, but not sure
    found = doubtful(np.eye(3)[labels], scores, True)
    assert {doc for doc, _, _ in found} == set(changed)
    assert all(label == truth[doc] and p == scores[doc, label] for doc, label, p in found)


def test_labels_that_are_not_exclusive():
    """A label that is missing and one too many are found. What was not annotated is not doubted."""
    gold = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, np.nan], [1, 1]], "float64")
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9], [0.97, 0.99], [0.9, 0.02]])
    assert doubtful(gold, scores, False) == [(5, 1, 0.02), (4, 0, 0.97)], "the least probable first"


def test_a_label_that_no_document_has_is_not_what_another_looks_like():
    assert doubtful(np.array([[1, 0], [1, 0]]), np.array([[0.9, 0.1], [0.1, 0.9]]), True) == []
