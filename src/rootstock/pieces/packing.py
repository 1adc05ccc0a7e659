"""Packing: group windows of similar length, so that the model computes little padding."""

from collections.abc import Iterator

import numpy as np


def pack(lengths: np.ndarray, budget: int, padded: bool = True) -> Iterator[np.ndarray]:
    """Sort windows by length, longest first, and fill packs up to the budget.

    lengths (int, Shape (n,)): pieces of each window.
    budget (int): maximum number of pieces in a pack; a longer window gets a pack of its own.
    padded (bool): whether windows are padded to the longest in their pack; the padding then counts.
    RETURNS: an iterator over int64 arrays of indices into lengths; each index occurs once.
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
    """The share of real pieces among the computed ones, between 0 and 1 (no padding)."""
    computed = sum(int(lengths[p].max()) * len(p) for p in pack(lengths, budget))
    return float(lengths.sum() / computed) if computed else 1.0
