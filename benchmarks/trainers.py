"""Who fine-tunes a classifier, each as its documentation has it. Imported in every environment."""

from __future__ import annotations

import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from .data import rows

LABELS = ["NEGATIVE", "POSITIVE"]
BATCH = 32
Rows = list[dict[str, str]]


class Trainer:
    """Trains from the pretrained weights at each call; what is drawn, and how it is shuffled, hangs on the seed."""

    start: Callable[..., None]  # takes the weights folder, the number of documents, the seed, the contender's settings
    train: Callable[[Rows], None]
    predict: Callable[[Sequence[str]], list[str]]

    def __init__(self, weights: str, train: str, test: str, documents: int, test_documents: int, **own: Any) -> None:
        self.weights, self.documents, self.own = weights, documents, own
        self.rows, self.test = rows(train), rows(test, test_documents)

    def __call__(self, seed: int) -> dict[str, Any]:
        drawn = draw(self.rows, self.documents, seed)
        self.start(self.weights, self.documents, seed, **self.own)
        begin = time.perf_counter()
        self.train(drawn)
        seconds = time.perf_counter() - begin
        predicted = self.predict([row["text"] for row in self.test])
        right = sum(row["label"] == label for row, label in zip(self.test, predicted, strict=True))
        return {"seconds": seconds, "documents": len(drawn) / seconds, "accuracy": right / len(self.test)}


def draw(rows: Rows, documents: int, seed: int) -> Rows:
    """As many of each label, shuffled."""
    lots = random.Random(seed)
    drawn = [row for label in LABELS for row in lots.sample([r for r in rows if r["label"] == label], documents // 2)]
    return lots.sample(drawn, len(drawn))


class WithSpacy(Trainer):
    """Through `nlp.update`."""

    nlp: Any
    optimizer: Any
    epochs = 1
    dropout = 0.1

    def train(self, rows: Rows) -> None:
        from spacy.training import Example
        from spacy.util import minibatch

        for _ in range(self.epochs):
            random.shuffle(rows)
            for batch in minibatch(rows, BATCH):
                examples = [Example.from_dict(self.nlp.make_doc(row["text"]), {"cats": _cats(row)}) for row in batch]
                self.optimizer.step_schedules()
                self.nlp.update(examples, drop=self.dropout, sgd=self.optimizer)

    def predict(self, texts: Sequence[str]) -> list[str]:
        return [max(LABELS, key=doc.cats.__getitem__) for doc in self.nlp.pipe(texts)]


class Rootstock(WithSpacy):
    """As `workflow.stages.finetune` trains."""

    def start(self, weights: str, documents: int, seed: int, precision: str, epochs: int = 1) -> None:
        from pathlib import Path

        from workflow.engine import params, stage
        from workflow.stages import finetune

        settings = params.load()
        changes = {"precision": precision, "epochs": epochs, "batch_size": BATCH}
        settings = settings.model_copy(update={"seed": seed, "finetune": settings.finetune.model_copy(update=changes)})
        self.epochs, self.dropout = epochs, settings.finetune.dropout
        stage.set_torch(settings)
        self.nlp = finetune.build(settings, Path(weights), LABELS)
        self.optimizer = finetune.make_optimizer(settings.finetune, math.ceil(documents / BATCH) * epochs)


class SpacyTransformers(WithSpacy):
    """With the layers of spaCy's quickstart, whole documents."""

    def start(self, weights: str, documents: int, seed: int) -> None:
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
        steps = math.ceil(documents / BATCH)
        self.optimizer = Adam(warmup_linear(5e-5, steps // 10, steps + 1), L2=0.01, L2_is_weight_decay=True)


class HuggingFace(Trainer):
    """Its Trainer with the defaults, and documents of like length together."""

    def start(self, weights: str, documents: int, seed: int) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

        set_seed(seed)
        self.seed = seed
        self.tokenizer = AutoTokenizer.from_pretrained(weights)
        self.model = AutoModelForSequenceClassification.from_pretrained(weights, num_labels=len(LABELS))

    def train(self, rows: Rows) -> None:
        import transformers

        cut = self.tokenizer([row["text"] for row in rows], truncation=True)["input_ids"]
        found = [{"input_ids": i, "labels": LABELS.index(row["label"])} for i, row in zip(cut, rows, strict=True)]
        with tempfile.TemporaryDirectory() as folder:
            settings = transformers.TrainingArguments(
                folder,
                num_train_epochs=1,
                per_device_train_batch_size=BATCH,
                group_by_length=True,
                seed=self.seed,
                save_strategy="no",
                report_to=[],
            )
            trainer = transformers.Trainer(self.model, settings, train_dataset=found, processing_class=self.tokenizer)
            trainer.train()

    def predict(self, texts: Sequence[str]) -> list[str]:
        import torch

        self.model.eval()
        found: list[str] = []
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                batch = list(texts[start : start + BATCH])
                inputs = self.tokenizer(batch, truncation=True, padding=True, return_tensors="pt")
                found += [LABELS[i] for i in self.model(**inputs).logits.argmax(1)]
        return found


class SetFit(Trainer):
    def start(self, weights: str, documents: int, seed: int) -> None:
        from setfit import SetFitModel

        self.seed = seed
        self.model = SetFitModel.from_pretrained(weights, labels=LABELS)

    def train(self, rows: Rows) -> None:
        import setfit
        from datasets import Dataset

        found = {"text": [row["text"] for row in rows], "label": [LABELS.index(row["label"]) for row in rows]}
        with tempfile.TemporaryDirectory() as folder:
            settings = setfit.TrainingArguments(folder, seed=self.seed, save_strategy="no", report_to="none")
            setfit.Trainer(self.model, settings, train_dataset=Dataset.from_dict(found)).train()

    def predict(self, texts: Sequence[str]) -> list[str]:
        return list(self.model.predict(list(texts)))


def _cats(row: dict[str, str]) -> dict[str, float]:
    return {label: float(label == row["label"]) for label in LABELS}
