"""The reviews of data/sample: enough, balanced, varied, and no split leaks into another."""

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
EVERY = [row for rows in SPLITS.values() for row in rows]


def test_size_and_balance():
    assert len(EVERY) >= 400
    for rows in SPLITS.values():
        labels = Counter(row["label"] for row in rows)
        assert labels["POSITIVE"] == labels["NEGATIVE"] == len(rows) / 2
    assert len({row["about"] for row in EVERY}) >= 50, "several kinds of product and service"


def test_one_to_five_sentences():
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    counts = Counter(
        sum(1 for s in doc.sents if any(t.is_alpha for t in s)) for doc in nlp.pipe(r["text"] for r in EVERY)
    )
    assert all(counts[n] >= 40 for n in (1, 2, 3, 4, 5))
    # The rules split some sentences twice ("7.30 p.m."), so a few texts count more.
    assert sum(n for size, n in counts.items() if size > 5) < 0.05 * len(EVERY)


def words(text: str) -> list[str]:
    return re.findall(r"[\w']+", text.lower())


def shingles(text: str, n: int = 3) -> set[tuple[str, ...]]:
    tokens = words(text)
    return {tuple(tokens[i : i + n]) for i in range(max(1, len(tokens) - n + 1))}


@pytest.mark.parametrize(("one", "other"), list(combinations(SPLITS, 2)))
def test_no_near_duplicates_across_splits(one, other):
    left = [(row["text"], shingles(row["text"])) for row in SPLITS[one]]
    right = [(row["text"], shingles(row["text"])) for row in SPLITS[other]]
    near = [(a, b) for a, x in left for b, y in right if len(x & y) > min(len(x), len(y)) / 3]
    assert not near


def test_no_template():
    """No opening of four words serves twice, and no run of seven words."""
    openings = Counter(tuple(words(row["text"])[:4]) for row in EVERY)
    assert openings.most_common(1)[0][1] == 1
    runs = Counter(run for row in EVERY for run in shingles(row["text"], 7) if len(run) == 7)
    assert runs.most_common(1)[0][1] <= 1


def test_hard_cases_are_among_them():
    negated = [
        r
        for r in EVERY
        if r["label"] == "POSITIVE" and re.search(r"\b(not|never|no|nothing|n't)\b|n't\b", r["text"].lower())
    ]
    praised = [
        r
        for r in EVERY
        if r["label"] == "NEGATIVE"
        and re.search(r"\b(love|lovely|great|beautiful|wonderful|best|nice)", r["text"].lower())
    ]
    assert len(negated) > 60 and len(praised) > 30
