"""Contender that encodes texts once with a frozen transformer, then trains heads on the result one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from .data import read_rows

LABELS = ["NEGATIVE", "POSITIVE"]
BATCH_SIZE = 32


class Heads:
    """Seconds to encode the documents and to train and score each head on them for one epoch."""

    def __init__(self, weights: str, path: str, n_documents: int, n_heads: int) -> None:
        import spacy

        self.rows, self.n_heads = read_rows(path, n_documents), n_heads
        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("trf_wordpiecer", config={"weights": weights})
        self.nlp.add_pipe("trf_tok2vec", config={"weights": weights, "trainable": False})
        self.encode(self.rows[:32])  # warm-up

    def __call__(self) -> dict[str, Any]:
        start = time.perf_counter()
        docs = self.encode(self.rows)
        accuracies = [self.train(docs, seed) for seed in range(self.n_heads)]
        return {"seconds": time.perf_counter() - start, "accuracy": sum(accuracies) / len(accuracies)}

    def encode(self, rows: list[dict[str, str]]) -> list[Any]:
        """Docs without tokens that carry only the features that a head reads."""
        from spacy.tokens import Doc

        from rootstock.attributes import ROWS
        from rootstock.components.pooling import POOLING

        docs = []
        for doc, label in self.nlp.pipe([(row["text"], row["label"]) for row in rows], as_tuples=True):
            features = Doc(self.nlp.vocab)
            features.cats = {name: float(name == label) for name in LABELS}
            features.user_data[ROWS] = POOLING["class_vector"](doc)[0]
            docs.append(features)
        return docs

    def train(self, docs: list[Any], seed: int) -> float:
        """Train a new head. RETURNS: its accuracy on the same documents."""
        import random

        from spacy.training import Example
        from spacy.util import minibatch
        from thinc.api import Adam

        name = f"head {seed}"
        head = self.nlp.add_pipe("trf_textcat", name=name, config={"seed": seed})
        for label in LABELS:
            head.add_label(label)
        optimizer = Adam(0.01)
        for batch in minibatch(random.Random(seed).sample(docs, len(docs)), BATCH_SIZE):
            self.nlp.update([Example(doc, doc) for doc in batch], sgd=optimizer)
        n_correct = 0
        for doc, gold in self.nlp.pipe(self.without_labels(docs), as_tuples=True):
            n_correct += max(doc.cats, key=doc.cats.get) == max(gold, key=gold.get)
            doc.cats = gold
        self.nlp.remove_pipe(name)
        return n_correct / len(docs)

    def without_labels(self, docs: list[Any]) -> Iterator[tuple[Any, dict[str, float]]]:
        """Docs without gold labels, and these labels, as `workflow.corpus.predictions` passes them to `nlp.pipe`."""
        for doc in docs:
            gold, doc.cats = doc.cats, {}
            yield doc, gold
