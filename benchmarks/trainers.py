"""Contenders that fine-tune a classifier, each library used as its documentation shows.

Every contender's environment imports this module, so it imports libraries only where they are used.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from .data import read_rows

LABELS = ["NEGATIVE", "POSITIVE"]
BATCH_SIZE = 32
Rows = list[dict[str, str]]


class Trainer:
    """Fine-tunes from the pretrained weights in each round; the seed decides the sample and its order."""

    setup: Callable[..., None]  # arguments: the folder of the weights, the number of documents, the seed, settings
    train: Callable[[Rows], None]
    predict: Callable[[Sequence[str]], list[str]]

    def __init__(
        self, weights: str, train_path: str, test_path: str, n_train: int, n_test: int, **settings: Any
    ) -> None:
        self.weights, self.n_train, self.settings = weights, n_train, settings
        self.train_rows, self.test_rows = read_rows(train_path), read_rows(test_path, n_test)

    def __call__(self, seed: int) -> dict[str, Any]:
        rows = balanced_sample(self.train_rows, self.n_train, seed)
        self.setup(self.weights, self.n_train, seed, **self.settings)
        start = time.perf_counter()
        self.train(rows)
        seconds = time.perf_counter() - start
        predicted = self.predict([row["text"] for row in self.test_rows])
        n_correct = sum(row["label"] == label for row, label in zip(self.test_rows, predicted, strict=True))
        accuracy = n_correct / len(self.test_rows)
        return {"seconds": seconds, "documents_per_second": len(rows) / seconds, "accuracy": accuracy}


def balanced_sample(rows: Rows, n_documents: int, seed: int) -> Rows:
    """A shuffled sample with equally many rows per label."""
    rng = random.Random(seed)
    by_label = [[row for row in rows if row["label"] == label] for label in LABELS]
    sample = [row for group in by_label for row in rng.sample(group, n_documents // len(LABELS))]
    return rng.sample(sample, len(sample))


class SpacyTrainer(Trainer):
    """Trains with `nlp.update`."""

    nlp: Any
    optimizer: Any
    dropout = 0.1

    def train(self, rows: Rows) -> None:
        from spacy.training import Example
        from spacy.util import minibatch

        random.shuffle(rows)
        for batch in minibatch(rows, BATCH_SIZE):
            examples = [Example.from_dict(self.nlp.make_doc(row["text"]), {"cats": _cats(row)}) for row in batch]
            self.optimizer.step_schedules()
            self.nlp.update(examples, drop=self.dropout, sgd=self.optimizer)

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [max(LABELS, key=doc.cats.__getitem__) for doc in self.nlp.pipe(texts)]


class Rootstock(SpacyTrainer):
    """Trains like the stage `workflow.stages.finetune`."""

    def setup(self, weights: str, n_train: int, seed: int, precision: str) -> None:
        from pathlib import Path

        from workflow.engine import params
        from workflow.model.determinism import make_deterministic
        from workflow.model.pipeline import build
        from workflow.model.recipe import make_optimizer

        settings = params.load()
        changes = {"precision": precision, "epochs": 1, "batch_size": BATCH_SIZE}
        settings = settings.model_copy(update={"seed": seed, "finetune": settings.finetune.model_copy(update=changes)})
        self.dropout = settings.finetune.dropout
        make_deterministic(settings)
        self.nlp = build(settings, Path(weights), LABELS)
        self.optimizer = make_optimizer(settings.finetune, math.ceil(n_train / BATCH_SIZE))


class SpacyTransformers(SpacyTrainer):
    """The architecture of spaCy's quickstart configuration, on whole documents."""

    def setup(self, weights: str, n_train: int, seed: int) -> None:
        import spacy
        from thinc.api import Adam, warmup_linear

        spacy.util.fix_random_seed(seed)
        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("transformer", config={"model": {"name": weights}})
        listener = "spacy-transformers.TransformerListener.v1"
        tok2vec = {"@architectures": listener, "pooling": {"@layers": "reduce_mean.v1"}}
        linear = {"@architectures": "spacy.TextCatBOW.v3", "exclusive_classes": True, "ngram_size": 1}
        model = {"@architectures": "spacy.TextCatEnsemble.v2", "tok2vec": tok2vec, "linear_model": linear}
        textcat = self.nlp.add_pipe("textcat", config={"model": model})
        for label in LABELS:
            textcat.add_label(label)
        self.nlp.initialize()
        steps = math.ceil(n_train / BATCH_SIZE)
        self.optimizer = Adam(warmup_linear(5e-5, steps // 10, steps + 1), L2=0.01, L2_is_weight_decay=True)


class HuggingFaceTrainer(Trainer):
    """The Trainer of Transformers with its defaults, except that batches group documents of similar length."""

    def setup(self, weights: str, n_train: int, seed: int) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

        set_seed(seed)
        self.seed = seed
        self.tokenizer = AutoTokenizer.from_pretrained(weights)
        self.model = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=len(LABELS))

    def train(self, rows: Rows) -> None:
        import transformers

        input_ids = self.tokenizer([row["text"] for row in rows], truncation=True)["input_ids"]
        dataset = [
            {"input_ids": ids, "labels": LABELS.index(row["label"])} for ids, row in zip(input_ids, rows, strict=True)
        ]
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                folder,
                num_train_epochs=1,
                per_device_train_batch_size=BATCH_SIZE,
                group_by_length=True,
                seed=self.seed,
                save_strategy="no",
                report_to=[],
            )
            trainer = transformers.Trainer(
                self.model, arguments, train_dataset=dataset, processing_class=self.tokenizer
            )
            trainer.train()

    def predict(self, texts: Sequence[str]) -> list[str]:
        import torch

        self.model.eval()
        predicted: list[str] = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH_SIZE):
                batch = list(texts[start : start + BATCH_SIZE])
                inputs = self.tokenizer(batch, truncation=True, padding=True, return_tensors="pt")
                predicted += [LABELS[i] for i in self.model(**inputs).logits.argmax(1)]
        return predicted


def _cats(row: dict[str, str]) -> dict[str, float]:
    return {label: float(label == row["label"]) for label in LABELS}
