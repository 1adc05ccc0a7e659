"""Predictions for the documents of a split, with their labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from spacy.language import Language

from . import features, shards

BATCH = 128  # documents; `package` predicts in the same batches, so that its scores must be equal


class Prediction(NamedTuple):
    row: str  # file:line
    text: str
    gold: list[float]  # per label: 1, 0, or NaN if unknown
    scores: list[float]  # per label: the probability


def predict(nlp: Language, folder: Path, labels: list[str]) -> Iterator[Prediction]:
    """Predict a split, shard by shard. The labels are removed from each document before prediction."""

    def unlabelled() -> Iterator:
        for doc in shards.read(shards.files(folder), nlp.vocab):
            gold = [doc.cats.get(label, float("nan")) for label in labels]
            doc.cats = {}
            yield doc, gold

    for doc, gold in nlp.pipe(unlabelled(), as_tuples=True, batch_size=BATCH):
        text = doc.user_data.get(features.TEXT, doc.text)
        yield Prediction(doc.user_data[shards.ROW], text, gold, [doc.cats[label] for label in labels])


def arrays(predictions: Iterable[Prediction], n_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """gold and scores, each (n_docs, n_labels): the only data of a split that stays in memory."""
    values = chain.from_iterable((*p.gold, *p.scores) for p in predictions)
    stacked = np.fromiter(values, "float64").reshape(-1, 2, n_labels)
    return stacked[:, 0], stacked[:, 1]
