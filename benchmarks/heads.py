"""Heads over a frozen transformer, trained one after another on what it gave once. In the worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from .data import rows

LABELS = ["NEGATIVE", "POSITIVE"]
BATCH = 32


class Heads:
    """Seconds for so many heads, from text: documents are encoded, then each head learns for an epoch, and scores."""

    def __init__(self, weights: str, path: str, documents: int, heads: int) -> None:
        import spacy

        self.rows, self.heads = rows(path, documents), heads
        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("trf_wordpiecer", config={"weights": weights})
        self.nlp.add_pipe("trf_tok2vec", config={"weights": weights, "trainable": False})
        self.encode(self.rows[:32])

    def __call__(self) -> dict[str, Any]:
        start = time.perf_counter()
        found = self.encode(self.rows)
        right = [self.train(found, seed) for seed in range(self.heads)]
        return {"seconds": time.perf_counter() - start, "accuracy": sum(right) / len(right)}

    def encode(self, rows: list[dict[str, str]]) -> list[Any]:
        """Documents without tokens, with what a head reads."""
        from spacy.tokens import Doc

        from rootstock.attributes import ROWS
        from rootstock.components.pooling import POOLING

        found = []
        for doc, label in self.nlp.pipe([(row["text"], row["label"]) for row in rows], as_tuples=True):
            reduced = Doc(self.nlp.vocab)
            reduced.cats = {name: float(name == label) for name in LABELS}
            reduced.user_data[ROWS] = POOLING["class_vector"](doc)[0]
            found.append(reduced)
        return found

    def train(self, docs: list[Any], seed: int) -> float:
        """The share of these documents that a new head gets right."""
        import random

        from spacy.training import Example
        from spacy.util import minibatch
        from thinc.api import Adam

        name = f"head {seed}"
        head = self.nlp.add_pipe("trf_textcat", name=name, config={"seed": seed})
        for label in LABELS:
            head.add_label(label)
        optimizer = Adam(0.01)
        for batch in minibatch(random.Random(seed).sample(docs, len(docs)), BATCH):
            self.nlp.update([Example(doc, doc) for doc in batch], sgd=optimizer)
        right = 0
        for doc, gold in self.nlp.pipe(self.unlabelled(docs), as_tuples=True):
            right += max(doc.cats, key=doc.cats.get) == max(gold, key=gold.get)
            doc.cats = gold
        self.nlp.remove_pipe(name)
        return right / len(docs)

    def unlabelled(self, docs: list[Any]) -> Iterator[tuple[Any, dict[str, float]]]:
        """As `workflow.corpus.predictions` reads them."""
        for doc in docs:
            gold, doc.cats = doc.cats, {}
            yield doc, gold
