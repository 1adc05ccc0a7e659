"""The contrastive loss: vectors of documents with the same labels are pulled together, others are pushed apart.

Source: Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts", which draws pairs of documents. Here all
pairs of a batch count, so that each document is encoded once for many pairs.
"""

from typing import Any

from thinc.api import get_array_module


def contrast(vectors: Any, targets: Any) -> tuple[float, Any]:
    """The mean squared error of the cosines of all pairs, and its gradient (n_docs, width).

    Pairs with a target of zero count as much as all others together, however many there are of each.

    vectors: array (n_docs, width).
    targets: array (n_docs, n_docs), the cosines to reach; NaN for a pair that does not count.
    """
    xp = get_array_module(vectors)
    lengths = xp.maximum(xp.sqrt((vectors**2).sum(axis=1, keepdims=True)), 1e-8)
    unit = vectors / lengths
    weights = xp.zeros_like(targets)
    for pairs in (targets > 0, targets == 0):
        pairs = pairs & ~xp.eye(len(targets), dtype=bool)
        weights += pairs / xp.maximum(2 * pairs.sum(), 1)
    error = xp.where(weights > 0, unit @ unit.T - targets, 0)
    d_unit = 4 * (weights * error) @ unit
    d_vectors = (d_unit - unit * (unit * d_unit).sum(axis=1, keepdims=True)) / lengths
    return float((weights * error**2).sum()), d_vectors.astype(vectors.dtype)


def overlap(truth: Any) -> Any:
    """The labels that each two documents share, as a part of all that either has: array (n_docs, n_docs), 0 to 1.

    Only labels that are known of both count. NaN if neither document has one of these.

    truth: array (n_docs, n_labels) of 1 and 0; NaN if unknown.
    """
    xp = get_array_module(truth)
    has, known = xp.nan_to_num(truth), (~xp.isnan(truth)).astype(truth.dtype)
    shared, counts = has @ has.T, has @ known.T
    either = counts + counts.T - shared
    return xp.where(either > 0, shared / xp.maximum(either, 1e-8), xp.nan)
