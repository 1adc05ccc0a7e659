"""Throughput from text to vectors, and a check that all contenders compute the same vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import data
from .harness import Contender, Goal, Measurement, extract, run_interleaved
from .precisions import available_precisions
from .report import Report

BASELINE = "spacy-transformers"
GOALS: dict[str, dict[str, float]] = {  # speedup over the baseline
    "short text (SST-2)": {"fp32": 2.7, "auto": 8},
    "long text (IMDB)": {"fp32": 7, "auto": 20},
}


def run(full: bool) -> Report:
    report = Report("encode")
    sizes = {"sst2": 5000, "imdb": 300} if full else {"sst2": 1000, "imdb": 60}
    precisions = available_precisions(report)
    for (title, speedups), (corpus, n_documents) in zip(GOALS.items(), sizes.items(), strict=True):
        path = data.SHARED / corpus / "train.jsonl"
        settings = {"weights": data.WEIGHTS, "path": path, "n_documents": n_documents}
        contenders = [*ours(settings, precisions), *peers(settings)]
        goals = [
            Goal(f"rootstock {precision}", baseline, at_least=at_least)
            for precision in precisions
            for baseline, at_least in ((BASELINE, speedups[precision]), (f"bare {precision}", 0.9))
        ]
        measure(report, title, contenders, path, 7 if full else 3, BASELINE, goals)
    return report


def ours(settings: dict[str, Any], precisions: Sequence[str]) -> list[Contender]:
    """Rootstock, and the bare model on the batches that Rootstock makes."""
    return [
        Contender(f"{name} {precision}", f"benchmarks.encoders:{target}", precision=precision, **settings)
        for name, target in (("rootstock", "Rootstock"), ("bare", "BareModel"))
        for precision in precisions
    ]


def peers(settings: dict[str, Any]) -> list[Contender]:
    """The other libraries."""
    targets = {
        BASELINE: "SpacyTransformers",
        "spacy-curated-transformers": "CuratedTransformers",
        "sentence-transformers": "SentenceTransformers",
    }
    return [
        Contender("Hugging Face pipeline", "benchmarks.encoders:HuggingFacePipeline", **settings),
        *(
            Contender(name, f"benchmarks.encoders:{target}", data.PEERS_PYTHON, **settings)
            for name, target in targets.items()
        ),
    ]


def measure(
    report: Report,
    title: str,
    contenders: Sequence[Contender],
    path: Path,
    n_rounds: int,
    baseline: str,
    goals: Sequence[Goal],
) -> None:
    sentences = [text for text in data.read_texts(path) if data.is_one_sentence(text)][:50]
    *timed, vectors = run_interleaved(contenders, [{}] * n_rounds + [{"compare": sentences}])
    report.add(Measurement(title, "words/s", baseline, extract(timed, "words_per_second"), list(goals)))
    report.notes += [f"{title}: {compare_vectors(name, vectors)}" for name in vectors if name != "bare fp32"]
    report.notes += [
        f"{title}: {name} truncates documents and reads {reply['share_read']:.0%} of the words; only these are counted"
        for name, reply in timed[0].items()
        if reply["share_read"] < 1
    ]


def compare_vectors(name: str, replies: dict[str, dict[str, Any]]) -> str:
    """Compare vectors of wordpieces with those of the bare model, for sentences with equal numbers of wordpieces."""
    pairs = [
        (np.array(vectors), np.array(reference))
        for vectors, reference in zip(replies[name]["vectors"], replies["bare fp32"]["vectors"], strict=True)
    ]
    comparable = [pair for pair in pairs if pair[0].shape == pair[1].shape]
    vectors, reference = (np.concatenate(side) for side in zip(*comparable, strict=True))
    cosine = (vectors * reference).sum(1) / np.linalg.norm(vectors, axis=1) / np.linalg.norm(reference, axis=1)
    return (
        f"vectors of {name} compared with bare fp32: mean cosine {cosine.mean():.6f} (min {cosine.min():.6f}), "
        f"max difference {np.abs(vectors - reference).max():.1g}, "
        f"in {len(comparable)} of {len(pairs)} sentences"
    )
