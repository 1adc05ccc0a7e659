"""Contenders that learn to classify texts, each library used as its documentation shows.

Every contender's environment imports this module, so it imports libraries only where they are used.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from .data import read_rows

Rows = list[dict[str, str]]
Predict = Callable[[Sequence[str]], Iterable[str]]  # from texts to their labels


class Classifier:
    """Learns from train.jsonl, chooses on dev.jsonl, and is scored on both dev.jsonl and test.jsonl of a folder."""

    learn: Callable[[Rows, Rows, int], Predict]  # arguments: the rows of train and of dev, the seed

    def __call__(self, folder: str, seed: int) -> dict[str, Any]:
        train, dev, test = (read_rows(Path(folder) / f"{split}.jsonl") for split in ("train", "dev", "test"))
        start = time.perf_counter()
        predict = self.learn(train, dev, seed)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "dev": accuracy(predict, dev), "test": accuracy(predict, test)}


def accuracy(predict: Predict, rows: Rows) -> float:
    predicted = predict([row["text"] for row in rows])
    return sum(row["label"] == label for row, label in zip(rows, predicted, strict=True)) / len(rows)


class Rootstock:
    """The stages sentencize, wordpiece and finetune on train and dev; scoring is left out of the seconds."""

    def __init__(self, weights: str, threads: int, changes: dict[str, Any]) -> None:
        """changes: of params.yaml, by key, such as `finetune.epochs`."""
        from workflow.engine import params

        settings = params.load().model_dump() | {"threads": threads}
        for key, value in changes.items():
            section, _, name = key.rpartition(".")
            (settings[section] if section else settings)[name] = value
        self.params, self.weights = params.Params.model_validate(settings), Path(weights)

    def __call__(self, folder: str, seed: int) -> dict[str, Any]:
        import spacy

        from workflow.corpus.predictions import arrays, predict
        from workflow.model import scores

        data_here = self.params.data.model_copy(update={"folder": folder})
        settings = self.params.model_copy(update={"seed": seed, "data": data_here})
        with tempfile.TemporaryDirectory() as tmp:
            start = time.perf_counter()
            inputs = {"weights": self.weights, "features": Path(tmp)}
            model = self.train(settings, inputs, Path(tmp))
            seconds = time.perf_counter() - start
            self.prepare(settings, inputs, Path(tmp), "test")
            nlp = spacy.load(model / "pipeline")
            labels = list(nlp.get_pipe("trf_textcat").labels)
            found = {}
            for split in ("dev", "test"):
                gold, predicted = arrays(predict(nlp, inputs[f"wordpieces/{split}"], labels), len(labels))
                found[split] = float(scores.correct(gold, scores.decide(predicted, True)).mean())
        return {"seconds": seconds, **found}

    def train(self, settings: Any, inputs: dict[str, Path], tmp: Path) -> Path:
        """Adds train and dev to `inputs`. RETURNS: the folder of the model."""
        from contextlib import nullcontext

        from workflow.stages import finetune

        finetune.live.run = lambda *_: nullcontext(Silent())  # type: ignore[assignment]
        (tmp / "report.json").write_text("{}")  # no features
        for split in ("train", "dev"):
            self.prepare(settings, inputs, tmp, split)
        finetune.run(settings, inputs, {"model": tmp / "base", "checkpoint": tmp / "checkpoint"})
        return tmp / "base"

    def prepare(self, settings: Any, inputs: dict[str, Path], tmp: Path, split: str) -> None:
        """Add a split to `inputs`."""
        from workflow.stages import sentencize, wordpiece

        sentences, pieces = tmp / "sentences" / split, tmp / "wordpieces" / split
        for out in (sentences, pieces):
            out.mkdir(parents=True)
        sentencize.run(settings, {}, {"sentences": sentences})
        wordpiece.run(settings, {"sentences": sentences, "weights": self.weights}, {"wordpieces": pieces})
        inputs[f"wordpieces/{split}"] = pieces


class SelfTraining(Rootstock):
    """Besides, `annotate` predicts unlabelled text, and `distill` trains a transformer on what it is surest of."""

    def train(self, settings: Any, inputs: dict[str, Path], tmp: Path) -> Path:
        from workflow.corpus import slices
        from workflow.files import write_json
        from workflow.stages import annotate, distill

        inputs["best"], inputs["annotated"] = super().train(settings, inputs, tmp), tmp / "annotated"
        path = Path(settings.data.folder) / "unlabelled.jsonl"
        for name, part in slices.cut("more", path, 10**6, {}).items():
            out = inputs["annotated"] / name
            out.mkdir(parents=True)
            write_json(out / annotate.REPORT, annotate.annotate(part, inputs["best"] / "pipeline", settings, out))
        learners = settings.distill.model_copy(update={"students": {"again": AGAIN}})
        (tmp / "again").mkdir()
        distill.run(settings.model_copy(update={"distill": learners}), inputs, {"student": tmp / "again"})
        return tmp / "again"


AGAIN = {"architecture": "transformer", "gold": 1.0, "surest": 1000, "hard_labels": True, "epochs": 2}


class Silent:
    """Instead of a run in MLflow, which the other contenders do not have."""

    run_id = None

    def log(self, point: dict[str, float]) -> None:
        pass


class TfIdf(Classifier):
    """Words and pairs of words, and logistic regression."""

    def learn(self, train: Rows, dev: Rows, seed: int) -> Predict:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
        features = vectorizer.fit_transform([row["text"] for row in train])
        best = best_regression(features, train, vectorizer.transform([row["text"] for row in dev]), dev)
        return lambda texts: best.predict(vectorizer.transform(texts))


class FrozenMean(Classifier):
    """The mean vectors of sentence-transformers, and logistic regression."""

    def __init__(self, weights: str) -> None:
        from sentence_transformers import SentenceTransformer

        self.model = SentenceTransformer(weights, device="cpu")

    def learn(self, train: Rows, dev: Rows, seed: int) -> Predict:
        encoded = [self.model.encode([row["text"] for row in rows]) for rows in (train, dev)]
        best = best_regression(encoded[0], train, encoded[1], dev)
        return lambda texts: best.predict(self.model.encode(list(texts)))


def best_regression(features: Any, train: Rows, dev_features: Any, dev: Rows) -> Any:
    """The logistic regression that is best on dev, of several strengths of regularization."""
    from sklearn.linear_model import LogisticRegression

    labels, gold = [row["label"] for row in train], [row["label"] for row in dev]
    fitted = [LogisticRegression(C=c, max_iter=1000).fit(features, labels) for c in (0.1, 1, 10, 100)]
    return max(fitted, key=lambda model: model.score(dev_features, gold))


class SpacyTextcat(Classifier):
    """A text categorizer of spaCy's own, ten passes, the best on dev."""

    def __init__(self, config: str) -> None:
        """config: `bow` or `cnn`, of which spaCy has defaults."""
        from spacy.pipeline import textcat
        from thinc.api import Config

        self.config = Config().from_str(getattr(textcat, f"single_label_{config}_config"))

    def learn(self, train: Rows, dev: Rows, seed: int) -> Predict:
        import random

        import spacy
        from spacy.training import Example
        from spacy.util import minibatch

        spacy.util.fix_random_seed(seed)
        labels = sorted({row["label"] for row in train})
        nlp = spacy.blank("en")
        nlp.add_pipe("textcat", config=self.config)
        examples = [
            Example.from_dict(
                nlp.make_doc(row["text"]), {"cats": {label: float(label == row["label"]) for label in labels}}
            )
            for row in train
        ]
        optimizer = nlp.initialize(lambda: examples)

        def predict(texts: Sequence[str]) -> list[str]:
            return [max(doc.cats, key=doc.cats.__getitem__) for doc in nlp.pipe(texts)]

        best, weights = -1.0, b""
        for _ in range(10):
            random.shuffle(examples)
            for batch in minibatch(examples, 32):
                nlp.update(batch, drop=0.2, sgd=optimizer)
            if (score := accuracy(predict, dev)) > best:
                best, weights = score, nlp.to_bytes()
        nlp.from_bytes(weights)
        return predict


class HuggingFaceTrainer(Classifier):
    """The Trainer of Transformers with its defaults, except for epochs, learning rate and the best on dev."""

    def __init__(self, weights: str, epochs: int, learning_rate: float) -> None:
        self.weights, self.epochs, self.learning_rate = weights, epochs, learning_rate

    def learn(self, train: Rows, dev: Rows, seed: int) -> Predict:
        import torch
        import transformers

        transformers.set_seed(seed)
        labels = sorted({row["label"] for row in train})
        tokenizer = transformers.AutoTokenizer.from_pretrained(self.weights)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(self.weights, num_labels=len(labels))

        def dataset(rows: Rows) -> list[dict[str, Any]]:
            input_ids = tokenizer([row["text"] for row in rows], truncation=True)["input_ids"]
            return [
                {"input_ids": ids, "labels": labels.index(row["label"])}
                for ids, row in zip(input_ids, rows, strict=True)
            ]

        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                folder, num_train_epochs=self.epochs, learning_rate=self.learning_rate, per_device_train_batch_size=16,
                warmup_ratio=0.1, group_by_length=True, seed=seed, report_to=[], eval_strategy="epoch",
                save_strategy="epoch", save_total_limit=1, load_best_model_at_end=True,
                metric_for_best_model="accuracy", use_cpu=True,
            )  # fmt: skip
            transformers.Trainer(
                model, arguments, train_dataset=dataset(train), eval_dataset=dataset(dev), processing_class=tokenizer,
                compute_metrics=lambda found: {"accuracy": float((found[0].argmax(1) == found[1]).mean())},
            ).train()  # fmt: skip
        model.eval()

        def predict(texts: Sequence[str]) -> list[str]:
            predicted: list[str] = []
            with torch.inference_mode():
                for start in range(0, len(texts), 32):
                    batch = list(texts[start : start + 32])
                    inputs = tokenizer(batch, truncation=True, padding=True, return_tensors="pt")
                    predicted += [labels[i] for i in model(**inputs).logits.argmax(1)]
            return predicted

        return predict


class SetFit(Classifier):
    """SetFit with its defaults."""

    def __init__(self, weights: str) -> None:
        self.weights = weights

    def learn(self, train: Rows, dev: Rows, seed: int) -> Predict:
        import setfit
        from datasets import Dataset

        labels = sorted({row["label"] for row in train})
        model = setfit.SetFitModel.from_pretrained(self.weights, labels=labels)
        columns = {"text": [row["text"] for row in train], "label": [labels.index(row["label"]) for row in train]}
        with tempfile.TemporaryDirectory() as folder:
            arguments = setfit.TrainingArguments(folder, seed=seed, save_strategy="no", report_to="none")
            setfit.Trainer(model, arguments, train_dataset=Dataset.from_dict(columns)).train()
        return lambda texts: list(model.predict(list(texts)))
