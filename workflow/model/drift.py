"""Whether recent texts are like those of test: two-sample tests on the texts, and on what the model predicts.

Source: Rabanser et al. 2019, "Failing Loudly: An Empirical Study of Methods for Detecting Dataset Shift".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

TELLING = 15  # words that tell recent texts from those of test
TAIL = 0.97  # quantile of test: documents beyond it are counted


class Sample(NamedTuple):
    """The words of each text, and what the model predicts for it."""

    words: list[list[str]]
    unknown: np.ndarray  # (n,), number of unknown pieces
    scores: np.ndarray  # (n, n_labels), probabilities
    decided: np.ndarray  # (n, n_labels), boolean: the labels that are predicted


class Finding(NamedTuple):
    """What is compared, the probability of such a difference by chance, and both sides in words."""

    name: str
    p: float
    test: str
    recent: str


def compare(
    test: Sample, recent: Sample, known: set[str], labels: list[str], seed: int
) -> tuple[list[Finding], list[str]]:
    """All findings, each p-value corrected for the others (Holm 1979), and the words that recent texts have more often.

    known: the words of train.
    """
    auc, p, telling = _told_apart(test, recent, seed)
    sizes = [np.array([len(words) for words in side.words]) for side in (test, recent)]
    unknown = [side.unknown / np.maximum(size, 1) for side, size in zip((test, recent), sizes, strict=True)]
    new = [_new(side, known) for side in (test, recent)]
    found = [
        _scores(test, recent, labels),
        _shares(test, recent, labels),
        _ranks("words per document", *sizes),
        _ranks("unknown pieces per word", *unknown),
        _tail("documents with many words that train lacks", *new),
        Finding("told apart by a classifier of words", p, "AUC 0.500 by chance", f"AUC {auc:.3f}"),
    ]
    return [finding._replace(p=q) for finding, q in zip(found, _holm([f.p for f in found]), strict=True)], telling


def _holm(ps: list[float]) -> list[float]:
    corrected, highest = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        corrected[i] = highest
    return corrected


def _scores(test: Sample, recent: Sample, labels: list[str]) -> Finding:
    """Kolmogorov and Smirnov's test for the probabilities of each label: the smallest p, times the number of tests."""
    from scipy.stats import ks_2samp

    columns = _columns(test)
    ps = [float(ks_2samp(test.scores[:, j], recent.scores[:, j]).pvalue) for j in columns]
    j = int(np.argmin(ps))
    means = [f"mean {side.scores[:, columns[j]].mean():.3f}" for side in (test, recent)]
    return Finding(f"probability of {labels[columns[j]]}", min(1.0, len(ps) * ps[j]), *means)


def _shares(test: Sample, recent: Sample, labels: list[str]) -> Finding:
    """Fisher's exact test of how often each label is predicted: the smallest p, times the number of tests."""
    columns = _columns(test)
    ps = [_fisher(test.decided[:, j], recent.decided[:, j]) for j in columns]
    j = int(np.argmin(ps))
    shares = [f"{side.decided[:, columns[j]].mean():.1%}" for side in (test, recent)]
    return Finding(f"share of {labels[columns[j]]}", min(1.0, len(ps) * ps[j]), *shares)


def _columns(sample: Sample) -> list[int]:
    """The labels to look at: of two that exclude each other, one says all."""
    n = sample.scores.shape[1]
    exclusive = n == 2 and bool(np.allclose(sample.scores.sum(axis=1), 1.0, atol=1e-3))
    return [1] if exclusive else list(range(n))


def _ranks(name: str, test: np.ndarray, recent: np.ndarray) -> Finding:
    """Kolmogorov and Smirnov's test."""
    from scipy.stats import ks_2samp

    return Finding(name, float(ks_2samp(test, recent).pvalue), *(f"mean {x.mean():.3g}" for x in (test, recent)))


def _new(side: Sample, known: set[str]) -> np.ndarray:
    """The unknown words of each document, divided by the square root of its length, with which chance varies them."""
    new = np.array([sum(word not in known for word in words) for words in side.words], float)
    return new / np.sqrt(np.maximum([len(words) for words in side.words], 1))


def _tail(name: str, test: np.ndarray, recent: np.ndarray) -> Finding:
    """Fisher's exact test of how many documents are beyond a quantile of test: a few odd ones hardly change a mean."""
    limit = np.quantile(test, TAIL)
    return Finding(name, _fisher(test > limit, recent > limit), *(f"{(x > limit).mean():.1%}" for x in (test, recent)))


def _fisher(test: np.ndarray, recent: np.ndarray) -> float:
    from scipy.stats import fisher_exact

    counts = [[int(side.sum()), int(len(side) - side.sum())] for side in (test, recent)]
    return float(fisher_exact(counts).pvalue)


def _told_apart(test: Sample, recent: Sample, seed: int) -> tuple[float, float, list[str]]:
    """How well a classifier of words, trained on half of all documents, tells recent ones from test in the other half.

    RETURNS: area under the ROC curve, p-value (Mann and Whitney's test, one side), the most telling words.
    """
    from scipy.stats import mannwhitneyu
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline

    documents = np.array([*test.words, *recent.words], dtype=object)
    is_recent = np.repeat([0, 1], [len(test.words), len(recent.words)])
    model: Any = make_pipeline(
        TfidfVectorizer(analyzer=_as_they_are, sublinear_tf=True),
        LogisticRegression(class_weight="balanced", max_iter=1000),
    )
    # One split, not several folds: the test expects independent scores.
    learned, judged = train_test_split(np.arange(len(documents)), test_size=0.5, stratify=is_recent, random_state=seed)
    p = model.fit(documents[learned], is_recent[learned]).predict_proba(documents[judged])[:, 1]
    sides = p[is_recent[judged] == 1], p[is_recent[judged] == 0]
    result = mannwhitneyu(*sides, alternative="greater")
    model.fit(documents, is_recent)
    names = model[0].get_feature_names_out()
    best = np.argsort(-model[1].coef_[0], kind="stable")[:TELLING]
    return float(result.statistic / len(sides[0]) / len(sides[1])), float(result.pvalue), names[best].tolist()


def _as_they_are(words: list[str]) -> list[str]:
    return words


def estimated_accuracy(
    test_confidence: np.ndarray, test_right: np.ndarray, confidence: np.ndarray, level: float, seed: int
) -> dict[str, float]:
    """The accuracy on recent documents, from how much less sure the model is than on test; with a bootstrap interval.

    Source: Guillory et al. 2021, "Predicting with Confidence on Unseen Distributions" (difference of confidences).
    """
    rng = np.random.default_rng(seed)

    def estimate(of_test: np.ndarray, of_recent: np.ndarray) -> float:
        difference = confidence[of_recent].mean() - test_confidence[of_test].mean()
        return float(np.clip(test_right[of_test].mean() + difference, 0, 1))

    n, m = len(test_right), len(confidence)
    drawn = [estimate(rng.integers(0, n, n), rng.integers(0, m, m)) for _ in range(1000)]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return {"accuracy": estimate(np.arange(n), np.arange(m)), "low": float(low), "high": float(high)}
