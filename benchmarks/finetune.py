"""Throughput of fine-tuning a classifier, and its accuracy on the test set."""

from __future__ import annotations

from statistics import mean
from typing import Any

from . import data
from .harness import Contender, Goal, Measurement, extract, run_interleaved
from .precisions import available_precisions
from .report import Report

TRAINER, SPACY = "Hugging Face Trainer", "spacy-transformers"
SPEEDUPS: dict[str, dict[str, float]] = {"fp32": {TRAINER: 1.5}, "auto": {TRAINER: 4, SPACY: 8}}


def run(full: bool) -> Report:
    report = Report("finetune")
    n_train, n_test = (6600, 1821) if full else (1024, 500)
    rootstock, peers = "benchmarks.trainers:Rootstock", {"python": data.PEERS_PYTHON}

    settings, precisions = _settings(n_train, n_test), available_precisions(report)
    contenders = [
        *(Contender(f"rootstock {precision}", rootstock, precision=precision, **settings) for precision in precisions),
        Contender(TRAINER, "benchmarks.trainers:HuggingFaceTrainer", **peers, **settings),
        Contender(SPACY, "benchmarks.trainers:SpacyTransformers", **peers, **settings),
    ]
    rounds = run_interleaved(contenders, [{"seed": seed} for seed in range(3)])
    title = f"one epoch of {n_train} sentences (SST-2), batches of 32"
    speed = [
        Goal(f"rootstock {precision}", baseline, at_least=speedup)
        for precision in precisions
        for baseline, speedup in SPEEDUPS[precision].items()
    ]
    quality = [
        Goal(f"rootstock {precision}", baseline, at_least=1)
        for precision in precisions
        for baseline in (TRAINER, SPACY)
    ]
    report.add(Measurement(title, "documents/s", TRAINER, extract(rounds, "documents_per_second"), speed))
    report.add(Measurement(f"accuracy after {title}", "test accuracy", TRAINER, extract(rounds, "accuracy"), quality))
    report.notes += _mean_accuracies(rounds)
    return report


def _settings(n_train: int, n_test: int) -> dict[str, Any]:
    folder = data.SHARED / "sst2"
    paths = {"train_path": folder / "train.jsonl", "test_path": folder / "test.jsonl"}
    return {"weights": data.WEIGHTS, **paths, "n_train": n_train, "n_test": n_test}


def _mean_accuracies(rounds: list[dict[str, dict[str, float]]]) -> list[str]:
    means = {name: mean(replies[name]["accuracy"] for replies in rounds) for name in rounds[0]}
    return [f"{name}: mean test accuracy over {len(rounds)} seeds {value:.4f}" for name, value in means.items()]
