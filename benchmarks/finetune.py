"""From pretrained weights to a classifier: documents a second, and how many of the test set it gets right."""

from __future__ import annotations

from statistics import mean
from typing import Any

from . import data
from .precisions import precisions
from .report import Report
from .turns import Contender, Goal, Measured, numbers, take_turns

TRAINER, SPACY = "Hugging Face Trainer", "spacy-transformers"
SPEED: dict[str, dict[str, float]] = {"fp32": {TRAINER: 1.5}, "auto": {TRAINER: 4, SPACY: 8}}


def run(full: bool) -> Report:
    report = Report("finetune")
    documents, test = (6600, 1821) if full else (1024, 500)
    own, peer = "benchmarks.trainers:Rootstock", {"python": data.PEERS}

    epoch, taking_part = _settings(documents, test), precisions(report)
    contenders = [
        *(Contender(f"rootstock {one}", own, precision=one, **epoch) for one in taking_part),
        Contender(TRAINER, "benchmarks.trainers:HuggingFace", **peer, **epoch),
        Contender(SPACY, "benchmarks.trainers:SpacyTransformers", **peer, **epoch),
    ]
    rounds = take_turns(contenders, [{"seed": seed} for seed in range(3)])
    what = f"one epoch of {documents} sentences (SST-2), batches of 32"
    speed = [Goal(f"rootstock {one}", other, least=ratio) for one in taking_part for other, ratio in SPEED[one].items()]
    quality = [Goal(f"rootstock {one}", other, least=1) for one in taking_part for other in (TRAINER, SPACY)]
    report.add(Measured(what, "documents/s", TRAINER, numbers(rounds, "documents"), speed))
    report.add(Measured(f"accuracy after {what}", "test accuracy", TRAINER, numbers(rounds, "accuracy"), quality))
    report.notes += _means(rounds)

    few = _settings(16, test)
    contenders = [
        Contender(f"rootstock {taking_part[-1]}", own, precision=taking_part[-1], epochs=25, **few),
        Contender("SetFit", "benchmarks.trainers:SetFit", **peer, **few),
    ]
    rounds = take_turns(contenders, [{"seed": seed} for seed in range(10 if full else 3)])
    what = "8 examples of each class (SST-2)"
    report.add(Measured(what, "seconds", "SetFit", numbers(rounds, "seconds")))
    report.add(Measured(f"accuracy after {what}", "test accuracy", "SetFit", numbers(rounds, "accuracy")))
    return report


def _settings(documents: int, test_documents: int) -> dict[str, Any]:
    folder = data.SHARED / "sst2"
    files = {"train": folder / "train.jsonl", "test": folder / "test.jsonl"}
    return {"weights": data.WEIGHTS, **files, "documents": documents, "test_documents": test_documents}


def _means(rounds: list[dict[str, dict[str, float]]]) -> list[str]:
    means = {name: mean(replies[name]["accuracy"] for replies in rounds) for name in rounds[0]}
    return [f"{name}: mean test accuracy of {len(rounds)} seeds {value:.4f}" for name, value in means.items()]
