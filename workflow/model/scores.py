"""Scores of a classifier, with their uncertainty. Arrays: gold and scores of shape (n_docs, n_labels).

gold holds 1, 0, or NaN for a label that was not annotated. `exclusive`: each document has exactly one label.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np


def decide(scores: np.ndarray, exclusive: bool, thresholds: np.ndarray | float = 0.5) -> np.ndarray:
    """Boolean (n_docs, n_labels): the best label, or all labels from their thresholds on. thresholds: (n_labels,)."""
    if not exclusive:
        return scores >= thresholds
    return np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, None]


def correct(gold: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """Boolean (n_docs,): whether every annotated label is predicted correctly."""
    return ((decided == (gold == 1)) | np.isnan(gold)).all(axis=1)


def best_thresholds(gold: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """The threshold of each label (n_labels,) with the highest F1, in the middle between two scores.

    If several are equally good, it is the one nearest to 0.5. A label that no document has gets 0.5.
    Source: Lipton et al. 2014, "Optimal Thresholding of Classifiers to Maximize F1 Measure".
    """
    best = np.full(gold.shape[1], 0.5)
    for j, (labels, p) in enumerate(zip(gold.T, scores.T, strict=True)):
        known = np.flatnonzero(~np.isnan(labels))
        order = known[np.argsort(-p[known], kind="stable")]
        hits, n_true = np.cumsum(labels[order]), labels[order].sum()
        if not n_true:
            continue
        f1 = 2 * hits / (np.arange(1, len(order) + 1) + n_true)  # of the documents up to each one
        middles = (p[order] + np.append(p[order][1:], 0)) / 2
        possible = np.append(np.diff(p[order]) < 0, True)  # equal scores are not separated
        at_half = f1[(p[order] >= 0.5).sum() - 1] if p[order][0] >= 0.5 else 0
        if f1[possible].max() > at_half:
            highest = middles[possible & (f1 == f1[possible].max())]
            best[j] = min(highest, key=lambda threshold: abs(threshold - 0.5))
    return best


def log_loss(gold: np.ndarray, scores: np.ndarray, exclusive: bool) -> np.ndarray:
    """Cross-entropy of each document (n_docs,), in nats."""
    p = np.clip(scores, 1e-8, 1 - 1e-8)
    target = np.nan_to_num(gold)
    losses = -target * np.log(p)
    if not exclusive:
        losses = np.where(np.isnan(gold), 0, losses - (1 - target) * np.log(1 - p))
    return losses.sum(axis=1)


def f1_per_label(gold: np.ndarray, decided: np.ndarray) -> np.ndarray:
    """F1 (..., n_labels) from (..., n_docs, n_labels); zero for a label that occurs in neither."""
    true_positives = ((gold == 1) & decided).sum(axis=-2)
    errors = ((gold == 0) & decided).sum(axis=-2) + ((gold == 1) & ~decided).sum(axis=-2)
    return 2 * true_positives / np.maximum(2 * true_positives + errors, 1)


def wilson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Interval of a proportion.

    Source: Wilson 1927, "Probable Inference, the Law of Succession, and Statistical Inference".
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    middle, half = p + z * z / (2 * n), z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, (middle - half) / (1 + z * z / n)), min(1.0, (middle + half) / (1 + z * z / n))


def bootstrap_macro_f1(
    gold: np.ndarray, decided: np.ndarray, confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of macro F1 over documents drawn with replacement (Efron 1979)."""
    rng = np.random.default_rng(seed)
    n, n_labels = gold.shape
    hits, errors = np.nonzero((gold == 1) & decided), np.nonzero(((gold == 0) & decided) | ((gold == 1) & ~decided))
    values = []
    for _ in range(resamples):  # counts, because copies of the arrays take minutes if there are thousands of labels
        times = np.bincount(rng.integers(0, n, n), minlength=n)
        true_positives, wrong = (
            np.bincount(labels, times[docs], n_labels).astype(int) for docs, labels in (hits, errors)
        )
        values.append((2 * true_positives / np.maximum(2 * true_positives + wrong, 1)).mean())
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def calibration(gold: np.ndarray, scores: np.ndarray, exclusive: bool, bins: int = 10) -> tuple[list[dict], float]:
    """Accuracy per bin of confidence, and the expected calibration error: of the predicted label if classes are
    exclusive, else of every label. Source: Naeini et al. 2015, "Obtaining Well Calibrated Probabilities Using Bayesian
    Binning".
    """
    if exclusive:
        best = scores.argmax(axis=1)
        rows = np.arange(len(scores))
        confidence, is_correct = scores[rows, best], gold[rows, best] == 1
    else:
        annotated = ~np.isnan(gold)
        confidence, is_correct = scores[annotated], gold[annotated] == 1
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    table = []
    for b in range(bins):
        in_bin = index == b
        if in_bin.any():
            mean_confidence, accuracy = float(confidence[in_bin].mean()), float(is_correct[in_bin].mean())
            table.append({"confidence": mean_confidence, "accuracy": accuracy, "count": int(in_bin.sum())})
    error = sum(row["count"] * abs(row["confidence"] - row["accuracy"]) for row in table) / max(1, len(confidence))
    return table, error


def summarize(
    gold: np.ndarray,
    scores: np.ndarray,
    decided: np.ndarray,
    labels: list[str],
    *,
    exclusive: bool,
    confidence: float,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """All metrics of one split, rounded to six digits."""
    n_correct = int(correct(gold, decided).sum())
    f1 = f1_per_label(gold, decided)
    low, high = wilson(n_correct, len(gold), confidence)
    f1_low, f1_high = bootstrap_macro_f1(gold, decided, confidence, resamples, seed)
    figures = {
        "documents": len(gold),
        "accuracy": n_correct / len(gold),
        "accuracy_low": low,
        "accuracy_high": high,
        "macro_f1": float(f1.mean()),
        "macro_f1_low": f1_low,
        "macro_f1_high": f1_high,
        "log_loss": float(log_loss(gold, scores, exclusive).mean()),
        "calibration_error": calibration(gold, scores, exclusive)[1],
        "f1": {label: float(value) for label, value in zip(labels, f1, strict=True)},
    }
    return _rounded(figures)


def mcnemar(one: np.ndarray, other: np.ndarray) -> float:
    """Exact p-value: the probability that two equally good models differ at least this much on the same documents.

    one, other: boolean (n_docs,), whether each model is right. Source: McNemar 1947, "Note on the Sampling Error of the
    Difference Between Correlated Proportions or Percentages".
    """
    from scipy.stats import binomtest

    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(only_one, only_one + only_other).pvalue) if only_one + only_other else 1.0


# The metrics of a split that are shown when models are compared.
SHOWN = ("accuracy", "accuracy_low", "accuracy_high", "macro_f1", "log_loss", "calibration_error")

RULES = {  # by the setting `select_by`
    "accuracy": "highest accuracy on dev, then lowest log loss",
    "macro_f1": "highest macro F1 on dev, then lowest log loss",
    "log_loss": "lowest log loss on dev",
}


def rank(dev: dict[str, Any], select_by: str) -> tuple[float, float]:
    """Sort key of a model by its dev scores, best first, as RULES say."""
    loss = dev["log_loss"]
    return (loss, 0.0) if select_by == "log_loss" else (-dev[select_by], loss)


CURVE = {"accuracy": "dev_accuracy", "macro_f1": "dev_macro_f1", "log_loss": "dev_loss"}  # names in a dev curve


def on_dev(gold: np.ndarray, predicted: np.ndarray, exclusive: bool) -> dict[str, float]:
    """Scores on dev, for its curve."""
    decided = decide(predicted, exclusive)
    f1 = f1_per_label(gold, decided)
    return {
        "dev_accuracy": float(correct(gold, decided).mean()),
        "dev_macro_f1": float(f1.mean()),
        "dev_loss": float(log_loss(gold, predicted, exclusive).mean()),
    }


def best_of(curve: list[dict[str, float]], select_by: str) -> int:
    """Where the dev curve is best; the first of equal points."""
    dev = [{name: point[key] for name, key in CURVE.items()} for point in curve]
    return min(range(len(dev)), key=lambda i: rank(dev[i], select_by))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    return round(value, 6) if isinstance(value, float) else value
