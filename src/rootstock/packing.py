"""Group windows of like length, so that little of what the model computes is padding."""

from collections.abc import Iterator

import numpy as np


def pack(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Sort by length, longest first, and fill packs whose padded size stays within the budget.

    lengths (int, Shape (n,)): pieces of each window.
    budget (int): the most pieces, padding included, in one pack; a longer window gets a pack of its own.
    YIELDS: int64 arrays of indices into lengths; together they hold each index once.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def padding_efficiency(lengths: np.ndarray, budget: int) -> float:
    """Real pieces over computed pieces, between 0 and 1."""
    computed = sum(int(lengths[p].max()) * len(p) for p in pack(lengths, budget))
    return float(lengths.sum() / computed) if computed else 1.0
