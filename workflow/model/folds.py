"""Probabilities of each document of train, from models that have learned from other documents only."""

from __future__ import annotations

import random
from collections.abc import Iterator
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
    strata = np.where(sizes[classes] < n_folds, sizes.argmax(), classes)  # rarer labels are not stratified
    return list(StratifiedKFold(n_folds, shuffle=True, random_state=seed).split(gold, strata))


def by_features(
    params: Params, weights: Path, docs: list[Doc], labels: list[str], gold: np.ndarray, folds: list[Fold]
) -> np.ndarray:
    """The mean of two logistic regressions: on vectors of the frozen transformer, and on words and pairs of words.

    Each finds wrong labels to which the other has overfitted. RETURNS: (n_docs, n_labels)
    """
    words = np.array([doc.text for doc in docs], dtype=object)
    frozen = vectors.of_docs(build(params, weights, []), tqdm(docs, "vectors", unit=" docs", disable=None))
    p = np.zeros(gold.shape)
    for learned, predicted in folds:
        for x, strength in ((frozen, 1.0), (_counted(words, learned), 3.0)):
            p[predicted] += _regression(x, strength, gold, learned, predicted, params.data.exclusive) / 2
    return p


def _counted(words: np.ndarray, learned: np.ndarray) -> Any:
    """TF-IDF of words and of pairs of words that occur in the documents to learn from. Sparse: (n_docs, any)"""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    return vectorizer.fit(words[learned]).transform(words)


def _regression(
    x: Any, strength: float, gold: np.ndarray, learned: np.ndarray, predicted: np.ndarray, exclusive: bool
) -> np.ndarray:
    """Probabilities (n_predicted, n_labels). strength: the inverse of the regularization's."""
    if exclusive:
        return _fit(x, strength, gold.argmax(axis=1), learned, predicted, gold.shape[1])
    p = np.zeros((len(predicted), gold.shape[1]))
    for label, column in enumerate(gold.T):
        known = learned[~np.isnan(column[learned])]
        p[:, label] = _fit(x, strength, column, known, predicted, 2)[:, 1]
    return p


def _fit(
    x: Any, strength: float, classes: np.ndarray, learned: np.ndarray, predicted: np.ndarray, n: int
) -> np.ndarray:
    """Probabilities (n_predicted, n) of classes 0 to n - 1. A class that no document has gets none."""
    from sklearn.linear_model import LogisticRegression

    present = np.unique(classes[learned]).astype(int)
    p = np.zeros((len(predicted), n))
    if len(present) > 1:
        model = LogisticRegression(C=strength, max_iter=MOST_STEPS).fit(x[learned], classes[learned].astype(int))
        p[:, present] = model.predict_proba(x[predicted])
    else:
        p[:, present if len(present) else slice(n)] = 1 / max(1, len(present) or n)
    return p


MOST_STEPS = 1000


def by_finetuning(
    params: Params, weights: Path, docs: list[Doc], labels: list[str], gold: np.ndarray, folds: list[Fold]
) -> np.ndarray:
    """A fine-tuning for each fold, with the settings of `finetune`, to its last step. RETURNS: (n_docs, n_labels)

    Raises Problem if one of them diverges.
    """
    p, settings = np.zeros(gold.shape), params.finetune
    if settings.contrastive == "auto":  # a fold must not be trained in another way because it is smaller
        counts = dict(zip(labels, np.nansum(gold, axis=0).astype(int).tolist(), strict=True))
        head = build(params, weights, labels).get_pipe("trf_textcat").head
        decided = recipe.is_contrastive(settings, head, counts, len(gold))
        settings = settings.model_copy(update={"contrastive": decided})
    for number, (learned, predicted) in enumerate(folds, 1):
        spacy.util.fix_random_seed(params.seed)
        nlp = build(params, weights, labels)
        textcat, known = nlp.get_pipe("trf_textcat"), [docs[i] for i in learned]
        counts = dict(zip(labels, np.nansum(gold[learned], axis=0).astype(int).tolist(), strict=True))
        optimizer, steps = recipe.begin(textcat, settings, counts, len(known))
        batches = _batches(known, settings.batch_size, random.Random(params.seed))
        for batch in tqdm(islice(batches, steps), f"fold {number}", steps, unit=" steps", disable=None):
            optimizer.step_schedules()
            examples = [Example(vectors.detached(doc), doc) for doc in batch]
            nlp.update(examples, drop=settings.dropout, sgd=optimizer)
        if textcat.contrastive:
            fit_head(nlp, map(vectors.detached, known), settings.class_weights)
        for i, doc in zip(
            predicted, nlp.pipe((vectors.detached(docs[i]) for i in predicted), batch_size=vectors.BATCH), strict=True
        ):
            p[i] = [doc.cats[label] for label in labels]
        if not np.isfinite(p).all():
            raise Problem(f"fold {number}: the fine-tuning has diverged: lower finetune.learning_rate")
    return p


def _batches(docs: list[Doc], size: int, rng: random.Random) -> Iterator[list[Doc]]:
    """Batches of shuffled documents, without end."""
    while True:
        yield from minibatch(rng.sample(docs, len(docs)), size)


METHODS = {"features": by_features, "finetune": by_finetuning}  # by the setting audit.methods
