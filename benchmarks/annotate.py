"""Throughput of the stage `annotate` against the pipeline alone, and its memory for a hundred times as many rows."""

from __future__ import annotations

import json
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from . import data
from .harness import Contender, Goal, Measurement, extract, run_interleaved
from .report import Report

PIPE, STAGE = "nlp.pipe", "annotate"
MOST = 1_000_000_000  # rows of a slice


def run(full: bool) -> Report:
    report = Report("annotate")
    for corpus, n in {"sst2": 50_000 if full else 10_000, "imdb": 2500 if full else 500}.items():
        settings: dict[str, Any] = {"weights": data.WEIGHTS, "corpus": corpus, "n_documents": n}
        contenders = [Contender(name, f"benchmarks.annotate:{target}", **settings) for name, target in TARGETS.items()]
        _, *warm = run_interleaved(contenders, [{}] * (6 if full else 3))
        values = extract(warm, "words_per_second")
        report.add(Measurement(f"{corpus}: {n} documents", "words/s", PIPE, values, [Goal(STAGE, PIPE, at_least=0.9)]))
    sizes = (10_000, 1_000_000 if full else 100_000)
    replies: dict[str, dict[str, Any]] = {}
    for n in sizes:
        settings = {"weights": None, "corpus": "sst2", "n_documents": n}
        replies |= run_interleaved([Contender(f"{n:,} rows", "benchmarks.annotate:Stage", **settings)], [{}])[0]
    small, large = (f"{n:,} rows" for n in sizes)
    peaks = extract([replies], "peak_mb")
    report.add(Measurement("annotate, tiny weights", "peak MB", small, peaks, [Goal(large, small, at_most=1.1)]))
    return report


class Pipe:
    """Contender: `nlp.pipe` on a list of texts."""

    def __init__(self, weights: str | None, corpus: str, n_documents: int) -> None:
        """weights: a folder; None for a tiny transformer with random weights."""
        from workflow.engine import params
        from workflow.model.determinism import make_deterministic

        self.params = params.load()
        make_deterministic(self.params)
        self.folder = tempfile.TemporaryDirectory()
        self.tmp = Path(self.folder.name)
        self.stream = islice(cycle(data.read_texts(data.SHARED / corpus / "train.jsonl")), n_documents)
        self.model = self.tmp / "model"
        make_model(Path(weights) if weights else make_tiny(self.tmp / "tiny"), self.model)
        self.prepare()

    def prepare(self) -> None:
        import spacy

        self.texts = list(self.stream)
        self.words = sum(map(data.count_words, self.texts))
        self.nlp = spacy.load(self.model)

    def __call__(self) -> dict[str, Any]:
        start = time.perf_counter()
        self.work()
        return {"words_per_second": self.words / (time.perf_counter() - start)}

    def work(self) -> None:
        assert all(doc.cats for doc in self.nlp.pipe(self.texts, batch_size=128))


class Stage(Pipe):
    """Contender: the stage, from file to file. It loads the model in each round."""

    def prepare(self) -> None:
        from workflow.corpus import slices

        self.path, self.words = self.tmp / "rows.jsonl", 0
        with self.path.open("w", encoding="utf-8") as file:
            for text in self.stream:
                self.words += data.count_words(text)
                file.write(json.dumps({"text": text}) + "\n")
        [self.part] = slices.cut("rows", self.path, MOST, {}).values()

    def work(self) -> None:
        from workflow.stages import annotate

        report = annotate.annotate(self.part, self.model, self.params, self.tmp)
        assert report["words"] == self.words


TARGETS = {STAGE: "Stage", PIPE: "Pipe"}


def make_model(weights: Path, folder: Path) -> None:
    """A pipeline with two labels, as `finetune` would leave it, but untrained."""
    from workflow.engine import params
    from workflow.model import pipeline

    pipeline.build(params.load(), weights, ["A", "B"]).to_disk(folder)


def make_tiny(folder: Path) -> Path:
    from transformers import AutoTokenizer, BertConfig, BertModel

    tokenizer = AutoTokenizer.from_pretrained(data.WEIGHTS)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
