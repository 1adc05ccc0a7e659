"""Group windows of like length, so that little of what the model computes is padding."""

from collections.abc import Iterator

import numpy as np


def pack(lengths: np.ndarray, budget: int, padded: bool = True) -> Iterator[np.ndarray]:
    """Sort by length, longest first, and fill packs whose size stays within the budget.

    lengths (int, Shape (n,)): pieces of each window.
    budget (int): the most pieces in one pack; a longer window gets a pack of its own.
    padded (bool): whether windows are padded to the longest of their pack, and the padding counts.
    YIELDS: int64 arrays of indices into lengths; together they hold each index once.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    start = 0
    while start < len(order):
        if padded:
            size = budget // max(1, int(lengths[order[start]]))
        else:
            before = ends[start] - lengths[order[start]]
            size = int(np.searchsorted(ends, before + budget, side="right")) - start
        size = max(1, size)
        yield order[start : start + size]
        start += size


def padding_efficiency(lengths: np.ndarray, budget: int) -> float:
    """Real pieces over computed pieces, between 0 and 1."""
    computed = sum(int(lengths[p].max()) * len(p) for p in pack(lengths, budget))
    return float(lengths.sum() / computed) if computed else 1.0
