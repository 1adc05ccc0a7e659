"""Twenty heads over one frozen encoding, beside one."""

from __future__ import annotations

from typing import Any

from . import data
from .report import Report
from .turns import Contender, Goal, Measured, numbers, take_turns

MANY, ONE = "20 heads", "1 head"


def run(full: bool) -> Report:
    report = Report("sweep")
    sizes = {"sst2": 5000, "imdb": 1000} if full else {"sst2": 2000, "imdb": 200}
    for corpus, documents in sizes.items():
        settings: dict[str, Any] = {
            "weights": data.WEIGHTS,
            "path": data.SHARED / corpus / "train.jsonl",
            "documents": documents,
        }
        contenders = [
            Contender(name, "benchmarks.heads:Heads", heads=heads, **settings) for name, heads in ((MANY, 20), (ONE, 1))
        ]
        rounds = take_turns(contenders, [{}] * (7 if full else 3))
        report.notes.append(
            f"{corpus}: mean accuracy of 20 heads on what they learned {rounds[0][MANY]['accuracy']:.3f}"
        )
        found = numbers(rounds, "seconds")
        goals = [Goal(MANY, ONE, most=1.5)]
        report.add(Measured(f"heads on a frozen transformer, {corpus}", "seconds", ONE, found, goals))
    return report
