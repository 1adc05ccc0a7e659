"""The head of a contrastive fine-tuning."""

import numpy as np
import pytest

from tests.conftest import pipeline
from workflow.model.regression import fit_head, vectors_of

TEXTS = [
    f"{word} number {number}. {'It goes on. ' * (number % 3)}"
    for number in range(12)
    for word in ("Soup", "Rain", "Tax")
]


@pytest.fixture(params=[("A", "B", "C"), ("A", "B")], ids=["three labels", "two labels"])
def labelled(tiny, request):
    """Documents whose label is their first word's."""
    labels, nlp = request.param, pipeline(tiny)
    docs = []
    for i, text in enumerate(TEXTS):
        doc = nlp.get_pipe("trf_wordpiecer")(nlp.make_doc(text))
        doc.cats = {label: float(j == i % len(labels)) for j, label in enumerate(labels)}
        docs.append(doc)
    return nlp, labels, [*docs, nlp.make_doc("")]


def with_head(nlp, labels, exclusive: bool):
    head = nlp.add_pipe("trf_textcat", config={"exclusive_classes": exclusive, "head": "class_vector"})
    for label in labels:
        head.add_label(label)
    return head


@pytest.mark.parametrize("balanced", [False, True])
def test_the_head_is_the_regression_of_scikit_learn(labelled, balanced):
    """On vectors of a mean length of 1. The probabilities are those of the pipeline if a document has one sentence."""
    from sklearn.linear_model import LogisticRegression

    nlp, labels, docs = labelled
    docs[-1] = nlp.get_pipe("trf_wordpiecer")(docs[-1])  # without tokens: left out
    head = with_head(nlp, labels, True)
    fit_head(nlp, docs, "balanced" if balanced else "none")
    gold, vectors = vectors_of(nlp, docs)
    assert len(gold) == len(TEXTS)
    scaled = vectors / np.linalg.norm(vectors, axis=1).mean()
    expected = LogisticRegression(class_weight="balanced" if balanced else None, max_iter=1000).fit(
        scaled, gold.argmax(1)
    )
    single = [i for i, doc in enumerate(docs[:-1]) if len(list(doc.sents)) == 1]
    assert len(single) >= 12
    found = head.predict([docs[i] for i in single])
    np.testing.assert_allclose(found, expected.predict_proba(scaled[single]), atol=1e-4)


def test_labels_that_are_not_exclusive_and_some_unknown(labelled):
    """Unknown ones are left out; a label that all known documents have is always predicted."""
    nlp, labels, docs = labelled
    docs = docs[:-1]
    head = with_head(nlp, (*labels, "ALWAYS"), False)
    for i, doc in enumerate(docs):
        doc.cats["ALWAYS"] = 1.0
        if i % 5 == 0:
            del doc.cats[labels[0]]
    fit_head(nlp, docs, "none")
    gold, _ = vectors_of(nlp, docs)
    assert np.isnan(gold[::5, 0]).all() and not np.isnan(gold[1::5]).any()
    assert (head.predict(docs)[:, -1] > 0.99).all()
    weights, bias = head.linear.get_param("W").copy(), head.linear.get_param("b").copy()
    for doc in docs[::5]:
        doc.cats[labels[0]] = 1.0 - doc.cats[labels[1]]
    fit_head(nlp, docs, "none")
    assert not np.array_equal(head.linear.get_param("W")[0], weights[0]), "known labels count"
    np.testing.assert_array_equal(head.linear.get_param("W")[1], weights[1])
    assert head.linear.get_param("b")[-1] == bias[-1]
