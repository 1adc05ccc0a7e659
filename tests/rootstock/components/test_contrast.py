"""The contrastive loss, and what `trf_textcat` learns by it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from spacy.training import Example
from thinc.api import Adam

from rootstock.components.contrast import contrast, overlap
from tests.conftest import pipeline

TRUTH = [[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0], [np.nan] * 3, [1, np.nan, 0]]


def test_overlap_of_labels():
    found = overlap(np.array(TRUTH, "float64"))
    assert found[0].tolist()[:6] == [1, 1, 0.5, 0, 0, 0]
    assert np.isnan(found[4, 4:7]).all(), "two documents without labels have nothing in common, and nothing apart"
    assert np.isnan(found[6]).all() and np.isnan(found[:, 6]).all(), "nothing is known about the labels"
    assert found[7].tolist()[:4] == [1, 1, 1, 0], "whether it has the second label is not known"


@given(arrays("float64", st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.sampled_from([0.0, 1.0, np.nan])))
def test_overlap_is_that_of_sets(truth):
    found = overlap(truth)
    sets = [{j for j, value in enumerate(row) if value == 1} for row in truth]
    for i, j in np.ndindex(found.shape):
        known = set(np.flatnonzero(~np.isnan(truth[i] + truth[j])).tolist())
        if either := (sets[i] | sets[j]) & known:
            assert found[i, j] == pytest.approx(len(sets[i] & sets[j]) / len(either))
        else:
            assert np.isnan(found[i, j])


def test_pairs_of_both_kinds_count_alike():
    """Two pairs of four documents with the same label, each of cosine 0; all others have cosine 0, too."""
    loss, _ = contrast(np.eye(4), overlap(np.array([[1.0, 0], [1, 0], [0, 1], [0, 1]])))
    assert loss == pytest.approx(0.5), "half of the loss is of pairs with the same label: error 1"


@pytest.mark.parametrize("seed", range(3))
def test_gradient_of_the_contrastive_loss(seed):
    rng = np.random.default_rng(seed)
    vectors, targets = rng.normal(size=(8, 5)), overlap(np.array(TRUTH, "float64"))
    loss, gradient = contrast(vectors, targets)
    assert loss > 0 and not gradient[6].any()
    for i in np.ndindex(vectors.shape):
        step = np.zeros_like(vectors)
        step[i] = 1e-6
        slope = (contrast(vectors + step, targets)[0] - contrast(vectors - step, targets)[0]) / 2e-6
        assert gradient[i] == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("head", ["mean", "class_vector", "last_hidden"])
def test_the_transformer_separates_documents_with_different_labels(minilm, head):
    """The output layer does not change. An empty document has no part in it."""
    nlp = pipeline(minilm)
    textcat = nlp.add_pipe("trf_textcat", config={"head": head})
    texts = [("It was superb. I was happy.", "GOOD"), ("Lovely!", "GOOD"), ("It broke. Awful.", "BAD"), ("No.", "BAD")]
    for label in ("GOOD", "BAD"):
        textcat.add_label(label)
    textcat.contrastive = True
    before, sgd = textcat.linear.get_param("W").copy(), Adam(1e-4)

    def step() -> float:
        docs = [nlp.get_pipe("trf_wordpiecer")(nlp.make_doc(text)) for text in (*(text for text, _ in texts), "")]
        golds = [{"GOOD": float(label == "GOOD"), "BAD": float(label == "BAD")} for _, label in [*texts, ("", "BAD")]]
        examples = [Example.from_dict(doc, {"cats": cats}) for doc, cats in zip(docs, golds, strict=True)]
        for example, doc in zip(examples, docs, strict=True):
            example.predicted = doc
        with nlp.select_pipes(disable="trf_wordpiecer"):
            return nlp.update(examples, sgd=sgd, losses={})["trf_textcat"]

    losses = [step() for _ in range(8)]
    assert losses[-1] < losses[0] / 2
    np.testing.assert_array_equal(textcat.linear.get_param("W"), before)
