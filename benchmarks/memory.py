"""The most memory that a process holds, by what it is given. A process for each: it remembers its peak."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

from . import data
from .report import Report
from .turns import Contender, Goal, Measured, numbers, take_turns


def run(full: bool) -> Report:
    report = Report("memory")
    for job in ("encode", "train"):
        _measure(report, "kB document", (10, 1000 if full else 300), job, 1.5)
        _measure(report, "kB sentence", (10, 100), job, 1.5)
    return report


def _measure(report: Report, shape: str, sizes: tuple[int, ...], job: str, most: float) -> None:
    found: dict[str, dict[str, Any]] = {}
    for size in sizes:
        contender = Contender(f"{size} {shape}", WORK, weights=data.WEIGHTS, job=job, shape=shape, size=size)
        found |= take_turns([contender], [{}])[0]
    smallest, *_, largest = found
    goal = Goal(largest, smallest, most=most)
    report.add(Measured(f"{job}: {shape}", "peak MB", smallest, numbers([found], "peak_mb"), [goal]))


WORK = "benchmarks.memory:Job"


class Job:
    """In the worker."""

    def __init__(self, weights: str, job: str, shape: str, size: int) -> None:
        import spacy

        self.work = getattr(self, job)
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
        self.work(text(self.shape, self.size))
        return {}

    def encode(self, text: str) -> None:
        assert len(self.nlp(text).tensor)

    def train(self, text: str) -> None:
        from spacy.training import Example

        optimizer = self.nlp.resume_training()
        for _ in range(2):  # the second step holds the optimizer's averages too
            self.nlp.update([Example.from_dict(self.nlp.make_doc(text), {"cats": CATS})], sgd=optimizer, drop=0.1)


CATS = {"A": 1.0, "B": 0.0}


def text(shape: str, size: int) -> str:
    """Words of SST-2 as one document of so many kB, with sentences or as one."""
    words = cycle(w for text in data.texts(data.SHARED / "sst2" / "train.jsonl") for w in text.split() if w.isalpha())
    long = " ".join(islice(words, size * 250))  # more than enough
    if shape == "kB document":
        each = long.split()
        long = " ".join(" ".join(each[i : i + 20]) + "." for i in range(0, len(each), 20))
    return long[: size * 1000]
