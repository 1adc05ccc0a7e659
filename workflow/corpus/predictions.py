"""Predict the documents of a split and hold them against their labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from spacy.language import Language

from . import features, shards

BATCH = 128  # documents; package's check uses the same, so that the same numbers come out


class Prediction(NamedTuple):
    row: str  # file:line
    text: str
    gold: list[float]  # per label: 1, 0, or NaN where nothing is known
    scores: list[float]  # per label: the probability


def predict(nlp: Language, folder: Path, labels: list[str]) -> Iterator[Prediction]:
    """Stream over the shards of a split; the documents' own labels are put aside before the model sees them."""

    def unlabelled() -> Iterator:
        for doc in shards.read(shards.files(folder), nlp.vocab):
            gold = [doc.cats.get(label, float("nan")) for label in labels]
            doc.cats = {}
            yield doc, gold

    for doc, gold in nlp.pipe(unlabelled(), as_tuples=True, batch_size=BATCH):
        text = doc.user_data.get(features.TEXT, doc.text)
        yield Prediction(doc.user_data[shards.ROW], text, gold, [doc.cats[label] for label in labels])


def arrays(predictions: Iterable[Prediction], n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """gold and scores, each (n_docs, n_labels): all that is held of a split, however large."""
    numbers = chain.from_iterable((*p.gold, *p.scores) for p in predictions)
    both = np.fromiter(numbers, "float64").reshape(-1, 2, n_labels)
    return both[:, 0], both[:, 1]
