"""Contenders that predict SST-2's test split on one core, without a transformer."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import data

SST2 = data.SHARED / "sst2"
COPIES = 11  # of the test split, so that a round takes seconds
ONE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")  # read when NumPy is imported
os.environ |= dict.fromkeys(ONE, "1") | {"TOKENIZERS_PARALLELISM": "false"}


class Timed:
    mb: float  # size on disk

    def __call__(self) -> dict[str, Any]:
        rows = data.read_rows(SST2 / "test.jsonl")
        texts = [row["text"] for row in rows]
        right = [label == row["label"] for label, row in zip(self.predict(texts), rows, strict=True)]
        texts *= COPIES
        start = time.perf_counter()
        self.predict(texts)
        speed = sum(map(data.count_words, texts)) / (time.perf_counter() - start)
        return {"words_per_second": speed, "accuracy": sum(right) / len(right), "mb": self.mb}

    def predict(self, texts: list[str]) -> Iterable[str]:
        """RETURNS: a label per text."""
        raise NotImplementedError


class Student(Timed):
    def __init__(self, pipeline: str) -> None:
        import spacy

        self.nlp, self.mb = spacy.load(pipeline), megabytes(Path(pipeline))

    def predict(self, texts: list[str]) -> Iterable[str]:
        return [max(doc.cats, key=doc.cats.__getitem__) for doc in self.nlp.pipe(texts, batch_size=128)]


class Model2Vec(Timed):
    """Model2Vec's own recipe, with its defaults, on the labels of train and those that a teacher has predicted."""

    def __init__(self, weights: str, annotated: str) -> None:
        """annotated: the folder with the annotated slices."""
        import torch
        from model2vec.distill import distill
        from model2vec.train import StaticModelForClassification

        torch.set_num_threads(1)
        train, dev = (data.read_rows(SST2 / f"{split}.jsonl") for split in ("train", "dev"))
        for path in sorted(Path(annotated).glob("*/rows.jsonl.gz")):
            with gzip.open(path, "rt", encoding="utf-8") as file:
                train += [{"text": row["text"], "label": row["predicted"]} for row in map(json.loads, file)]
        classifier = StaticModelForClassification.from_static_model(model=distill(weights, device="cpu"))
        (x, y), (x_val, y_val) = ([[row[key] for row in rows] for key in ("text", "label")] for rows in (train, dev))
        classifier.fit(x, y, X_val=x_val, y_val=y_val, device="cpu")
        self.pipeline = classifier.to_pipeline()
        with tempfile.TemporaryDirectory() as folder:
            self.pipeline.save_pretrained(folder)
            self.mb = megabytes(Path(folder))

    def predict(self, texts: list[str]) -> Iterable[str]:
        return self.pipeline.predict(texts, use_multiprocessing=False)


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
