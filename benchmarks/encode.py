"""From text to vectors: words a second, and whether the vectors are the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import data
from .precisions import precisions
from .report import Report
from .turns import Contender, Goal, Measured, numbers, take_turns

PEER = "spacy-transformers"
GOALS: dict[str, dict[str, float]] = {
    "short text (SST-2)": {"fp32": 2.7, "auto": 8},
    "long text (IMDB)": {"fp32": 7, "auto": 20},
}  # over PEER


def run(full: bool) -> Report:
    report = Report("encode")
    sizes = {"sst2": 5000, "imdb": 300} if full else {"sst2": 1000, "imdb": 60}
    taking_part = precisions(report)
    for (what, least), (corpus, documents) in zip(GOALS.items(), sizes.items(), strict=True):
        path = data.SHARED / corpus / "train.jsonl"
        settings = {"weights": data.WEIGHTS, "path": path, "documents": documents}
        contenders = [*ours(settings, taking_part), *peers(settings)]
        goals = [
            Goal(f"rootstock {one}", other, least=ratio)
            for one in taking_part
            for other, ratio in ((PEER, least[one]), (f"bare {one}", 0.9))
        ]
        measure(report, what, contenders, path, 7 if full else 3, PEER, goals)
    return report


def ours(settings: dict[str, Any], precisions: Sequence[str]) -> list[Contender]:
    return [
        Contender(f"{name.lower()} {precision}", f"benchmarks.encoders:{name}", precision=precision, **settings)
        for name in ("Rootstock", "Bare")
        for precision in precisions
    ]


def peers(settings: dict[str, Any]) -> list[Contender]:
    others = {
        PEER: "SpacyTransformers",
        "spacy-curated-transformers": "CuratedTransformers",
        "sentence-transformers": "SentenceTransformers",
    }
    return [
        Contender("Hugging Face pipeline", "benchmarks.encoders:Pipeline", **settings),
        *(Contender(name, f"benchmarks.encoders:{work}", data.PEERS, **settings) for name, work in others.items()),
    ]


def measure(
    report: Report,
    what: str,
    contenders: Sequence[Contender],
    path: Path,
    rounds: int,
    baseline: str,
    goals: Sequence[Goal],
) -> None:
    same = [text for text in data.texts(path) if data.one_sentence(text)][:50]
    *timed, vectors = take_turns(contenders, [{}] * rounds + [{"compare": same}])
    report.add(Measured(what, "words/s", baseline, numbers(timed, "words"), list(goals)))
    report.notes += [f"{what}: {agreement(name, vectors)}" for name in vectors if name != "bare fp32"]
    report.notes += [
        f"{what}: {name} reads {reply['read']:.0%} of the words, and only these count"
        for name, reply in timed[0].items()
        if reply["read"] < 1
    ]


def agreement(name: str, replies: dict[str, dict[str, Any]]) -> str:
    """Vectors of pieces beside those of the bare model, of the sentences that are cut into as many pieces."""
    pairs = [
        (np.array(one), np.array(other))
        for one, other in zip(replies[name]["vectors"], replies["bare fp32"]["vectors"], strict=True)
    ]
    same = [pair for pair in pairs if pair[0].shape == pair[1].shape]
    one, other = (np.concatenate(side) for side in zip(*same, strict=True))
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    return (
        f"vectors of {name} beside bare fp32: cosine {cosine.mean():.6f} (least {cosine.min():.6f}), "
        f"difference at most {np.abs(one - other).max():.1g}, in {len(same)} of {len(pairs)} sentences"
    )
