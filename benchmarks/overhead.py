"""Overhead around the model: DVC with nothing to do, imports, tokenization, padding."""

from __future__ import annotations

import sys

from . import data
from .harness import Contender, Goal, Measurement, extract, run_interleaved
from .report import Report

ALONE = "both tokenizers alone"
NO_PADDING = "no padding"
IMPORTS = {
    "imports of the library": ("rootstock", "spacy, torch, transformers"),
    # `import transformers` is lazy and loads almost nothing that a model needs.
    "imports of a pipeline": (
        "rootstock.encoder.encoder, rootstock.components.textcat, rootstock.components.wordpiecer",
        "spacy, torch, transformers.modeling_utils",
    ),
}


def run(full: bool) -> Report:
    report = Report("overhead")
    rounds = 7 if full else 3
    dvc = {f"dvc {verb}": [sys.executable, "-m", "dvc", verb] for verb in ("repro", "status")}
    _measure_commands(report, "DVC with nothing to do", dvc, rounds, 1.5)
    for title, both in IMPORTS.items():
        imports = {f"import {names}": [sys.executable, "-c", f"import {names}"] for names in both}
        _measure_commands(report, title, imports, rounds, 1.2)
    for corpus in ("sst2", "imdb"):
        _measure_tokenization(report, corpus, rounds)
    _measure_padding(report, {"sst2": 5000, "imdb": 500} if full else {"sst2": 1000, "imdb": 64})
    return report


def _measure_commands(report: Report, title: str, commands: dict[str, list[str]], rounds: int, at_most: float) -> None:
    """Compare two commands; the second is the baseline."""
    target = "benchmarks.commands:Command"
    contenders = [Contender(name, target, command=command) for name, command in commands.items()]
    _, *warm = run_interleaved(contenders, [{}] * (rounds + 1))  # the first round is the warm-up
    name, baseline = commands
    goals = [Goal(name, baseline, at_most=at_most)]
    report.add(Measurement(title, "seconds", baseline, extract(warm, "seconds"), goals))


def _measure_tokenization(report: Report, corpus: str, rounds: int) -> None:
    """Measure with cold and with warm caches of words.

    Both Rootstock and spaCy's tokenizer cache words. A stage runs in a process of its own, so its caches are cold.
    """
    settings = {"weights": data.WEIGHTS, "folder": data.SHARED / corpus}
    pipe, stages = {"rootstock nlp.pipe": "Pipeline"}, {"rootstock stages": "Stages"}
    for caches, ours in {"cold": stages | pipe, "warm": pipe}.items():
        contenders = [
            Contender(name, f"benchmarks.tokenization:{target}", cold=caches == "cold", **settings)
            for name, target in {**ours, ALONE: "TokenizersAlone"}.items()
        ]
        _, *warm = extract(run_interleaved(contenders, [{}] * (rounds + 1)), "words_per_second")
        goals = [Goal(name, ALONE, at_least=0.8) for name in ours]
        report.add(Measurement(f"tokenization of {corpus}, {caches} caches", "words/s", ALONE, warm, goals))


def _measure_padding(report: Report, sizes: dict[str, int]) -> None:
    contenders = [
        Contender(
            corpus,
            "benchmarks.padding:Padding",
            weights=data.WEIGHTS,
            path=data.SHARED / corpus / "train.jsonl",
            n_documents=n_documents,
        )
        for corpus, n_documents in sizes.items()
    ]
    calls = {"nlp.pipe": (False, 0.97), "nlp.update": (True, 0.93)}
    rounds = run_interleaved(contenders, [{"train": train} for train, _ in calls.values()])
    for (call, (_, at_least)), shares in zip(calls.items(), extract(rounds, "share"), strict=True):
        goals = [Goal(corpus, NO_PADDING, at_least=at_least) for corpus in shares]
        values = [{**shares, NO_PADDING: 1.0}]
        report.add(
            Measurement(f"share of computed positions that are not padding, {call}", "share", NO_PADDING, values, goals)
        )
