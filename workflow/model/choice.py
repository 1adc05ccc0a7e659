"""Strategies that choose the rows to label next, by the setting `select.by`. RETURNS: indices of rows, best first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Vectors = Callable[[np.ndarray], np.ndarray]  # from indices of rows (n,) to their vectors (n, width)
NEAR = 3  # unsure rows to cluster, for each row to choose
MOST = 20_000  # rows to cluster for diversity; if there are more, these are drawn at random


def by_margin(margins: np.ndarray, vectors: Vectors, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows with small margins, but few of a kind: of each cluster of them the row with the smallest margin.

    Source: Zhdanov 2019, "Diverse mini-batch Active Learning".
    """
    unsure = np.argsort(margins, kind="stable")[: NEAR * n]
    clusters, _ = _clusters(vectors(unsure), n, rng)
    chosen = unsure[np.unique(clusters, return_index=True)[1]]  # they are sorted, so the first has the smallest
    return _filled(chosen[np.argsort(margins[chosen], kind="stable")], unsure, n)


def by_diversity(margins: np.ndarray, vectors: Vectors, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows that represent the whole corpus: of each cluster the row at its centre, the largest cluster first.

    It does not ask the model, which knows little when there are few labels.
    """
    drawn = np.sort(rng.permutation(len(margins))[:MOST])
    clusters, distances = _clusters(vectors(drawn), n, rng)
    order = np.argsort(distances, kind="stable")
    _, first, sizes = np.unique(clusters[order], return_index=True, return_counts=True)
    middles = drawn[order[first]]
    return _filled(middles[np.argsort(-sizes, kind="stable")], rng.permutation(len(margins)), n)


def by_chance(margins: np.ndarray, vectors: Vectors, n: int, rng: np.random.Generator) -> np.ndarray:
    """Rows at random: what other strategies are compared with, and the only one for a test split."""
    return rng.permutation(len(margins))[:n]


STRATEGIES = {"margin": by_margin, "diversity": by_diversity, "random": by_chance}


def _clusters(vectors: np.ndarray, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each vector, and its distance from the middle. At most n clusters."""
    from sklearn.cluster import KMeans

    n = min(n, len(np.unique(vectors, axis=0)))
    means = KMeans(n, n_init=1, max_iter=20, random_state=int(rng.integers(2**31))).fit(vectors)
    return means.labels_, np.linalg.norm(vectors - means.cluster_centers_[means.labels_], axis=1)


def _filled(chosen: np.ndarray, others: np.ndarray, n: int) -> np.ndarray:
    """n rows: those that are chosen, then others, if some clusters were empty or equal."""
    more = others[~np.isin(others, chosen)]
    return np.concatenate([chosen, more])[:n]
