"""Probabilities of each document of train, from models that have learned from other documents only."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import minibatch
from tqdm import tqdm

from ..engine.errors import Problem
from ..engine.params import Params
from . import recipe, vectors
from .pipeline import build
from .regression import fit_head

Fold = tuple[np.ndarray, np.ndarray]  # indices of the documents to learn from, and of those to predict


def split(gold: np.ndarray, n_folds: int, exclusive: bool, seed: int) -> list[Fold]:
    """Folds with equal shares of each label if labels are exclusive. gold: (n_docs, n_labels).

    Raises Problem if there are fewer documents than folds.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    if len(gold) < n_folds:
        raise Problem(f"audit.folds is {n_folds}, but train has only {len(gold)} documents")
    if not exclusive:
        return list(KFold(n_folds, shuffle=True, random_state=seed).split(gold))
    classes = gold.argmax(axis=1)
    sizes = np.bincount(classes)
    strata = np.where(sizes[classes] < n_folds, sizes.argmax(), classes)  # a rare label cannot be in each fold
    return list(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(gold, strata))


def by_features(
    params: Params, weights: Path, docs: list[Doc], labels: list[str], gold: np.ndarray, folds: list[Fold]
) -> np.ndarray:
    """The mean of two logistic regressions: on vectors of the frozen transformer, and on words and pairs of words.

    Each finds mistakes that the other has learned by heart. RETURNS: (n_docs, n_labels)
    """
    texts = np.array([doc.text for doc in docs], dtype=object)
    views: dict[Callable[[], Any], np.ndarray] = {
        _on_vectors: vectors.of_docs(build(params, weights, []), tqdm(docs, "vectors", unit=" docs", disable=None)),
        _on_words: texts,
    }
    return np.mean([_predict(make, x, gold, folds, params.data.exclusive) for make, x in views.items()], axis=0)


def _on_vectors() -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(max_iter=MOST_STEPS)


def _on_words() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    return make_pipeline(words, LogisticRegression(C=3.0, max_iter=MOST_STEPS))


MOST_STEPS = 1000


def _predict(
    make: Callable[[], Any], x: np.ndarray, gold: np.ndarray, folds: list[Fold], exclusive: bool
) -> np.ndarray:
    """Out-of-fold probabilities of a classifier of scikit-learn's. RETURNS: (n_docs, n_labels)"""
    p = np.zeros(gold.shape)
    for learned, predicted in folds:
        if exclusive:
            p[predicted] = _fit(make, x, gold.argmax(axis=1), learned, predicted, gold.shape[1])
            continue
        for label, column in enumerate(gold.T):
            known = learned[~np.isnan(column[learned])]
            p[predicted, label] = _fit(make, x, column, known, predicted, 2)[:, 1]
    return p


def _fit(
    make: Callable[[], Any], x: np.ndarray, classes: np.ndarray, learned: np.ndarray, predicted: np.ndarray, n: int
) -> np.ndarray:
    """Probabilities (n_predicted, n) of classes 0 to n - 1. A class that no document has gets none."""
    present = np.unique(classes[learned]).astype(int)
    p = np.zeros((len(predicted), n))
    if len(present) > 1:
        p[:, present] = make().fit(x[learned], classes[learned].astype(int)).predict_proba(x[predicted])
    else:
        p[:, present if len(present) else slice(n)] = 1 / max(1, len(present) or n)
    return p


def by_finetuning(
    params: Params, weights: Path, docs: list[Doc], labels: list[str], gold: np.ndarray, folds: list[Fold]
) -> np.ndarray:
    """A fine-tuning for each fold, with the settings of `finetune`, to its last step. RETURNS: (n_docs, n_labels)"""
    p = np.zeros(gold.shape)
    for number, (learned, predicted) in enumerate(folds, 1):
        spacy.util.fix_random_seed(params.seed)
        nlp = build(params, weights, labels)
        textcat, known = nlp.get_pipe("trf_textcat"), [docs[i] for i in learned]
        counts = dict(zip(labels, np.nansum(gold[learned], axis=0).astype(int).tolist(), strict=True))
        optimizer, steps = recipe.begin(textcat, params.finetune, counts, len(known))
        batches = _batches(known, params.finetune.batch_size, random.Random(params.seed))
        for batch in tqdm(islice(batches, steps), f"fold {number}", steps, unit=" steps", disable=None):
            optimizer.step_schedules()
            examples = [Example(vectors.detached(doc), doc) for doc in batch]
            nlp.update(examples, drop=params.finetune.dropout, sgd=optimizer)
        if textcat.contrastive:
            fit_head(nlp, map(vectors.detached, known), params.finetune.class_weights)
        for i, doc in zip(
            predicted, nlp.pipe((vectors.detached(docs[i]) for i in predicted), batch_size=vectors.BATCH), strict=True
        ):
            p[i] = [doc.cats[label] for label in labels]
    return p


def _batches(docs: list[Doc], size: int, rng: random.Random) -> Iterator[list[Doc]]:
    """Batches of shuffled documents, without end."""
    while True:
        yield from minibatch(rng.sample(docs, len(docs)), size)


METHODS = {"features": by_features, "finetune": by_finetuning}  # by the setting audit.methods
