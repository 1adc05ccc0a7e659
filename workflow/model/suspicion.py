"""Which labels look wrong, and how many are, from out-of-fold probabilities. Arrays as in `scores`.

Source: Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels".
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

RESAMPLES = 100  # of the documents, for the interval of an estimate


class Suspect(NamedTuple):
    document: int
    given: int  # the label that looks wrong
    suggested: int  # the one that the models prefer; if labels are not exclusive, the same as `given`
    score: float  # the probability that the given label is right


def rank(gold: np.ndarray, p: np.ndarray, exclusive: bool) -> list[Suspect]:
    """The documents for which the models prefer another label, the most suspicious first.

    If labels are not exclusive, each label of a document is judged, and the most suspicious counts.
    """
    from cleanlab.rank import get_label_quality_scores

    found: dict[int, Suspect] = {}
    for label, documents, classes, probabilities in _problems(gold, p, exclusive):
        quality = get_label_quality_scores(classes, probabilities, method="self_confidence")
        for i in np.flatnonzero(probabilities.argmax(axis=1) != classes).tolist():
            given, suggested = (int(classes[i]), int(probabilities[i].argmax())) if exclusive else (label, label)
            suspect = Suspect(int(documents[i]), given, suggested, float(quality[i]))
            if suspect.document not in found or suspect.score < found[suspect.document].score:
                found[suspect.document] = suspect
    return sorted(found.values(), key=lambda suspect: (suspect.score, suspect.document))


def estimate(gold: np.ndarray, p: np.ndarray, exclusive: bool, confidence: float, seed: int) -> dict[str, float]:
    """The share of labels that are wrong, with a percentile interval over documents drawn with replacement.

    RETURNS: `share`, `low`, `high`, and `n`, how many are wrong.
    """
    rng, n = np.random.default_rng(seed), len(gold)
    drawn = [_wrong(gold[rows], p[rows], exclusive)[0] for rows in rng.integers(0, n, (RESAMPLES, n))]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    share, n_wrong = _wrong(gold, p, exclusive)
    return {"share": share, "low": float(low), "high": float(high), "n": n_wrong}


def _wrong(gold: np.ndarray, p: np.ndarray, exclusive: bool) -> tuple[float, int]:
    """The share of labels that are wrong, and how many."""
    from cleanlab.count import num_label_issues

    wrong = total = 0
    for _, _, classes, probabilities in _problems(gold, p, exclusive):
        present, compact = np.unique(classes, return_inverse=True)  # cleanlab requires that each class occurs
        total += len(classes)
        if len(present) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a class has few documents
                wrong += num_label_issues(compact, _normalized(probabilities[:, present]))
    return wrong / max(1, total), int(wrong)


def _problems(
    gold: np.ndarray, p: np.ndarray, exclusive: bool
) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
    """One problem in which labels exclude each other; or one for each label, against its absence.

    YIELDS: the label, the documents, their classes (n,), and the probabilities of the classes (n, n_classes).
    """
    if exclusive:
        yield -1, np.arange(len(gold)), gold.argmax(axis=1), _normalized(p)
        return
    for label in range(gold.shape[1]):
        documents = np.flatnonzero(~np.isnan(gold[:, label]))
        if len(documents):
            yes = p[documents, label]
            yield label, documents, gold[documents, label].astype(int), np.stack([1 - yes, yes], axis=1)


def _normalized(p: np.ndarray) -> np.ndarray:
    p = np.clip(p, 1e-9, None)
    return p / p.sum(axis=1, keepdims=True)
