"""The reviews in data/sample: enough, balanced, varied, and without leaks between the splits."""

import json
import re
from collections import Counter
from itertools import combinations

import pytest
import spacy

from tests.conftest import ROOT

SPLITS = {
    split: [json.loads(line) for line in (ROOT / f"data/sample/{split}.jsonl").open(encoding="utf-8")]
    for split in ("train", "dev", "test")
}
ROWS = [row for rows in SPLITS.values() for row in rows]


def test_size_balance_and_variety():
    assert len(ROWS) >= 400
    for rows in SPLITS.values():
        labels = Counter(row["label"] for row in rows)
        assert labels["POSITIVE"] == labels["NEGATIVE"] == len(rows) / 2
    assert len({row["about"] for row in ROWS}) >= 50, "several kinds of product and service"


def test_reviews_have_one_to_five_sentences():
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    counts = Counter(
        sum(1 for s in doc.sents if any(t.is_alpha for t in s)) for doc in nlp.pipe(r["text"] for r in ROWS)
    )
    assert all(counts[n] >= 40 for n in (1, 2, 3, 4, 5))
    # The sentencizer splits some sentences twice ("7.30 p.m."), so that a few texts have more.
    assert sum(n for size, n in counts.items() if size > 5) < 0.05 * len(ROWS)


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def shingles(text: str, n: int = 3) -> set[tuple[str, ...]]:
    tokens = words(text)
    return {tuple(tokens[i : i + n]) for i in range(max(1, len(tokens) - n + 1))}


@pytest.mark.parametrize(("one", "other"), list(combinations(SPLITS, 2)))
def test_no_near_duplicates_across_splits(one, other):
    left = [(row["text"], shingles(row["text"])) for row in SPLITS[one]]
    right = [(row["text"], shingles(row["text"])) for row in SPLITS[other]]
    near_duplicates = [(a, b) for a, x in left for b, y in right if len(x & y) > min(len(x), len(y)) / 3]
    assert not near_duplicates


def test_reviews_are_not_made_from_templates():
    """No review begins with the same four words as another or shares seven words in a row with it."""
    openings = Counter(tuple(words(row["text"])[:4]) for row in ROWS)
    assert openings.most_common(1)[0][1] == 1
    runs = Counter(run for row in ROWS for run in shingles(row["text"], 7) if len(run) == 7)
    assert runs.most_common(1)[0][1] <= 1


def test_hard_cases_are_included():
    positive_with_negation = [
        r
        for r in ROWS
        if r["label"] == "POSITIVE" and re.search(r"\b(not|never|no|nothing|n't)\b|n't\b", r["text"].lower())
    ]
    negative_with_praise = [
        r
        for r in ROWS
        if r["label"] == "NEGATIVE"
        and re.search(r"\b(love|lovely|great|beautiful|wonderful|best|nice)", r["text"].lower())
    ]
    assert len(positive_with_negation) > 60 and len(negative_with_praise) > 30
