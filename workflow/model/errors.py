"""Which documents a classifier gets wrong, and which labels look wrong. Arrays as in `scores`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

Doubt = tuple[int, int, float]  # document, the label that it seems to have, or to lack, and that label's probability


class Facts(NamedTuple):
    """What the errors of a document may come from."""

    tokens: int
    sentences: int
    unknown_pieces: int


def by_kind(documents: Iterable[Facts], right: np.ndarray) -> list[dict[str, Any]]:
    """How many documents there are of each length and so on, in ranges that double, and how many of them are wrong.

    right: boolean (n_docs,).
    """
    numbers = np.array(list(documents)).reshape(len(right), len(Facts._fields))
    rows = []
    for kind, column in zip(Facts._fields, numbers.T, strict=True):
        doublings = np.ceil(np.log2(column + 1)).astype(int)  # 0 for 0, 1 for 1, 2 for 2 and 3, 3 for 4 to 7, ...
        for n in np.unique(doublings).tolist():
            is_in = doublings == n
            low, high = 2**n // 2, 2**n - 1
            value = str(low) if low == high else f"{low} to {high}"
            counts = {"documents": int(is_in.sum()), "errors": int((is_in & ~right).sum())}
            rows.append({"kind": kind.replace("_", " "), "value": value, **counts})
    return rows


def doubtful(gold: np.ndarray, scores: np.ndarray, exclusive: bool) -> list[Doubt]:
    """Labels that look wrong: the model prefers another one, and is as sure of it as it usually is where it is right.

    The least probable labels come first. Of documents that the model was not trained on this is evidence; of others
    it is less. Source: Northcutt et al. 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels".
    """
    if not exclusive:  # each label is a class, and so is its absence
        pairs = [doubtful(*_with_absence(gold[:, j], scores[:, j]), True) for j in range(gold.shape[1])]
        found = [(doc, j, float(scores[doc, j])) for j, some in enumerate(pairs) for doc, _, _ in some]
        return sorted(found, key=lambda doubt: -abs(gold[doubt[0], doubt[1]] - doubt[2]))
    labelled = np.flatnonzero((gold == 1).any(axis=1))
    p, own = scores[labelled], (gold[labelled] == 1).argmax(axis=1)
    usual = np.array([p[own == j, j].mean() if (own == j).any() else np.inf for j in range(gold.shape[1])])
    each = np.arange(len(own))
    sure = np.where((p >= usual) & (p > p[each, own][:, None]), p, 0)
    other = sure.argmax(axis=1)
    order = np.argsort(p[each, own], kind="stable")
    return [(int(labelled[i]), int(other[i]), float(p[i, other[i]])) for i in order if sure[i].any()]


def _with_absence(gold: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.stack([gold, 1 - gold], axis=1), np.stack([p, 1 - p], axis=1)
