"""What is around the model: DVC with nothing to do, imports, cutting texts, padding."""

from __future__ import annotations

import sys

from . import data
from .report import Report
from .turns import Contender, Goal, Measured, numbers, take_turns

ALONE = "both tokenizers alone"
NONE = "no padding"
IMPORTS = {
    "imports of the library": ("rootstock", "spacy, torch, transformers"),
    # `transformers` alone loads next to nothing of what a model does.
    "imports of a pipeline": (
        "rootstock.encoder.encoder, rootstock.components.textcat, rootstock.components.wordpiecer",
        "spacy, torch, transformers.modeling_utils",
    ),
}


def run(full: bool) -> Report:
    report = Report("workflow")
    rounds = 7 if full else 3
    dvc = {f"dvc {verb}": [sys.executable, "-m", "dvc", verb] for verb in ("repro", "status")}
    _commands(report, "DVC with nothing to do", dvc, rounds, 1.5)
    for what, both in IMPORTS.items():
        imports = {f"import {names}": [sys.executable, "-c", f"import {names}"] for names in both}
        _commands(report, what, imports, rounds, 1.2)
    for corpus in ("sst2", "imdb"):
        _cutting(report, corpus, rounds)
    _padding(report, {"sst2": 5000, "imdb": 500} if full else {"sst2": 1000, "imdb": 64})
    return report


def _commands(report: Report, what: str, commands: dict[str, list[str]], rounds: int, most: float) -> None:
    """The first of two against the second."""
    contenders = [Contender(name, "benchmarks.cutters:Command", command=words) for name, words in commands.items()]
    _, *warm = take_turns(contenders, [{}] * (rounds + 1))
    first, second = commands
    report.add(Measured(what, "seconds", second, numbers(warm, "seconds"), [Goal(first, second, most=most)]))


def _cutting(report: Report, corpus: str, rounds: int) -> None:
    """All remember words, spaCy's tokenizer too; stages are processes of their own, to which all words are new."""
    settings = {"weights": data.WEIGHTS, "folder": data.SHARED / corpus}
    pipe, stages = {"rootstock nlp.pipe": "Cutter"}, {"rootstock stages": "Stages"}
    for what, ours in {"first words": stages | pipe, "known words": pipe}.items():
        contenders = [
            Contender(name, f"benchmarks.cutters:{work}", first=what == "first words", **settings)
            for name, work in {**ours, ALONE: "Alone"}.items()
        ]
        _, *warm = numbers(take_turns(contenders, [{}] * (rounds + 1)), "words")
        goals = [Goal(name, ALONE, least=0.8) for name in ours]
        report.add(Measured(f"cutting {corpus}, {what}", "words/s", ALONE, warm, goals))


def _padding(report: Report, documents: dict[str, int]) -> None:
    work, weights = "benchmarks.padding:Padding", data.WEIGHTS
    contenders = [
        Contender(corpus, work, weights=weights, path=data.SHARED / corpus / "train.jsonl", documents=n)
        for corpus, n in documents.items()
    ]
    requests = {"nlp.pipe": (False, 0.97), "nlp.update": (True, 0.93)}
    rounds = take_turns(contenders, [{"train": train} for train, _ in requests.values()])
    for (call, (_, least)), shares in zip(requests.items(), numbers(rounds, "share"), strict=True):
        goals = [Goal(corpus, NONE, least=least) for corpus in shares]
        report.add(Measured(f"pieces that are no padding, {call}", "share", NONE, [{**shares, NONE: 1.0}], goals))
