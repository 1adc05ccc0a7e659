"""Peak memory (RSS) of encoding and training for texts of growing size, each in a new process."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

from . import data
from .harness import Contender, Goal, Measurement, extract, run_interleaved
from .report import Report

CATS = {"A": 1.0, "B": 0.0}


def run(full: bool) -> Report:
    report = Report("memory")
    for job in ("encode", "train"):
        _measure(report, "kB document", (10, 1000 if full else 300), job, 1.5)
        _measure(report, "kB sentence", (10, 100), job, 1.5)
    return report


def _measure(report: Report, shape: str, sizes: tuple[int, ...], job: str, at_most: float) -> None:
    replies: dict[str, dict[str, Any]] = {}
    for size in sizes:
        settings: dict[str, Any] = {"weights": data.WEIGHTS, "job": job, "shape": shape, "size": size}
        contender = Contender(f"{size} {shape}", "benchmarks.memory:Job", **settings)
        replies |= run_interleaved([contender], [{}])[0]
    smallest, *_, largest = replies
    goal = Goal(largest, smallest, at_most=at_most)
    report.add(Measurement(f"{job}: {shape}", "peak MB", smallest, extract([replies], "peak_mb"), [goal]))


class Job:
    """Contender: encodes one text, or trains on it."""

    def __init__(self, weights: str, job: str, shape: str, size: int) -> None:
        import spacy

        self.job = getattr(self, job)
        self.shape, self.size = shape, size
        self.nlp = spacy.blank("en")
        self.nlp.max_length = 10**9
        self.nlp.add_pipe("trf_wordpiecer", config={"weights": weights})
        self.nlp.add_pipe("trf_tok2vec", config={"weights": weights})
        if job == "train":
            textcat = self.nlp.add_pipe("trf_textcat")
            for label in CATS:
                textcat.add_label(label)

    def __call__(self) -> dict[str, Any]:
        self.job(make_text(self.shape, self.size))
        return {}

    def encode(self, text: str) -> None:
        assert len(self.nlp(text).tensor)

    def train(self, text: str) -> None:
        from spacy.training import Example

        optimizer = self.nlp.resume_training()
        for _ in range(2):  # only the second step runs with the optimizer's moments already allocated
            self.nlp.update([Example.from_dict(self.nlp.make_doc(text), {"cats": CATS})], sgd=optimizer, drop=0.1)


def make_text(shape: str, size: int) -> str:
    """Words of SST-2 as one text of `size` kB: sentences of 20 words ("kB document"), or a single sentence."""
    texts = data.read_texts(data.SHARED / "sst2" / "train.jsonl")
    words = list(
        islice(cycle(w for text in texts for w in text.split() if w.isalpha()), size * 250)
    )  # more than enough
    if shape == "kB document":
        sentences = (" ".join(words[i : i + 20]) + "." for i in range(0, len(words), 20))
        return " ".join(sentences)[: size * 1000]
    return " ".join(words)[: size * 1000]
