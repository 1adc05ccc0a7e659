"""Speed, energy and size of pipelines, measured in turns on the same texts."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spacy.language import Language

from ..engine.energy import Energy, metered
from ..engine.params import Carbon

ROUNDS = 3
SECONDS = 1.0  # at least, of each pipeline in each round
BATCH = 256  # documents


@dataclass
class Work:
    seconds: float = 0.0
    documents: int = 0
    words: int = 0


def compare(pipelines: dict[str, Language], texts: list[str], carbon: Carbon) -> dict[str, dict[str, Any]]:
    """By name: words per second, and Wh per 1,000 documents with its range. The pipelines take turns."""
    done = {name: Work() for name in pipelines}
    spent: dict[str, list[Energy]] = {name: [] for name in pipelines}
    for nlp in pipelines.values():
        _work(nlp, texts, Work(), 0.0)  # warm up
    for _ in range(ROUNDS):
        for name, nlp in pipelines.items():
            energy = Energy()
            with metered(carbon.country, carbon.pue, energy):
                _work(nlp, texts, done[name], SECONDS)
            spent[name].append(energy)
    return {name: _figures(done[name], spent[name]) for name in pipelines}


def _work(nlp: Language, texts: list[str], done: Work, seconds: float) -> None:
    """Apply a pipeline to the texts, again and again until the time is over."""
    start = time.perf_counter()
    while True:
        for doc in nlp.pipe(texts, batch_size=BATCH):
            done.documents += 1
            done.words += len(doc.text.split())
        if time.perf_counter() - start >= seconds:
            break
    done.seconds += time.perf_counter() - start


def _figures(done: Work, spent: list[Energy]) -> dict[str, Any]:
    sums = {key: sum(getattr(energy, key) for energy in spent) for key in ("kwh", "kwh_low", "kwh_high")}
    per_1000 = {key.replace("kwh", "wh_per_1000"): 1e6 * value / done.documents for key, value in sums.items()}
    return {"words_per_second": done.words / done.seconds, **per_1000, "method": spent[-1].method}


def megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
