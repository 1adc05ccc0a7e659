"""A head by logistic regression on the vectors that a transformer computes for documents."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import to_numpy


def fit_head(nlp: Language, docs: Iterable[Doc], class_weights: str) -> None:
    """Set the output layer of `trf_textcat` to the logistic regression of labels on vectors; the transformer stays.

    The vector of a document is the mean of the rows that the head classifies. Documents without rows are left out. If
    a vector has become NaN, so do the weights.

    class_weights: "none" or "balanced".
    """
    class_weight = None if class_weights == "none" else class_weights
    head = nlp.get_pipe("trf_textcat")
    gold, vectors = vectors_of(nlp, docs)
    if not len(vectors):
        return
    if not np.isfinite(vectors).all():
        nan = np.full((len(head.labels), vectors.shape[1]), np.nan, "float32")
        return head.set_weights(nan, nan[:, 0])
    scale = 1 / np.linalg.norm(vectors, axis=1).mean()  # regularization then means the same for all weights
    vectors *= scale
    if head.exclusive_classes:
        weights, bias = _regression(vectors, gold.argmax(axis=1), class_weight, len(head.labels))
    else:  # each label against its absence
        weights, bias = np.zeros((len(head.labels), vectors.shape[1])), np.zeros(len(head.labels))
        for i, column in enumerate(gold.T):
            known = ~np.isnan(column)
            (no, yes), (bias_no, bias_yes) = _regression(vectors[known], column[known].astype(int), class_weight, 2)
            weights[i], bias[i] = yes - no, bias_yes - bias_no
    head.set_weights((weights * scale).astype("float32"), bias.astype("float32"))


def vectors_of(nlp: Language, docs: Iterable[Doc]) -> tuple[np.ndarray, np.ndarray]:
    """gold (n_docs, n_labels); vectors (n_docs, width)."""
    head = nlp.get_pipe("trf_textcat")
    missing = 0.0 if head.exclusive_classes else np.nan
    gold, vectors = [], []
    for doc in nlp.get_pipe("trf_tok2vec").pipe(docs):
        rows = to_numpy(head.rows(doc)[0])
        if len(rows):
            gold.append([doc.cats.get(label, missing) for label in head.labels])
            vectors.append(rows.mean(axis=0, dtype="float64"))
    return np.array(gold), np.array(vectors)


def _regression(
    vectors: np.ndarray, classes: np.ndarray, class_weight: str | None, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n_classes, width) and bias (n_classes,) of a softmax. A class without documents gets no probability."""
    from sklearn.linear_model import LogisticRegression

    weights, bias = np.zeros((n_classes, vectors.shape[1])), np.full(n_classes, ABSENT)
    present = np.unique(classes)
    bias[present] = 0.0
    if len(present) > 1:
        fitted: Any = LogisticRegression(class_weight=class_weight, max_iter=MOST_STEPS).fit(vectors, classes)
        # Of two classes scikit-learn has one row: the second against the first.
        sides: Any = np.array([[-0.5], [0.5]]) if len(present) == 2 else 1
        weights[present], bias[present] = sides * fitted.coef_, np.ravel(sides * fitted.intercept_)
    return weights, bias


ABSENT = -10.0  # logit of a class that no document has
MOST_STEPS = 1000
