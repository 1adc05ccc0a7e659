"""Time to train twenty heads on a frozen transformer that encodes the texts once, compared with one head."""

from __future__ import annotations

from typing import Any

from . import data
from .harness import Contender, Goal, Measurement, extract, run_interleaved
from .report import Report

MANY, ONE = "20 heads", "1 head"


def run(full: bool) -> Report:
    report = Report("sweep")
    sizes = {"sst2": 5000, "imdb": 1000} if full else {"sst2": 2000, "imdb": 200}
    for corpus, n_documents in sizes.items():
        settings: dict[str, Any] = {
            "weights": data.WEIGHTS,
            "path": data.SHARED / corpus / "train.jsonl",
            "n_documents": n_documents,
        }
        contenders = [
            Contender(name, "benchmarks.heads:Heads", n_heads=n_heads, **settings)
            for name, n_heads in ((MANY, 20), (ONE, 1))
        ]
        rounds = run_interleaved(contenders, [{}] * (7 if full else 3))
        report.notes.append(f"{corpus}: mean training accuracy of 20 heads: {rounds[0][MANY]['accuracy']:.3f}")
        goals = [Goal(MANY, ONE, at_most=1.5)]
        title = f"heads on a frozen transformer, {corpus}"
        report.add(Measurement(title, "seconds", ONE, extract(rounds, "seconds"), goals))
    return report
