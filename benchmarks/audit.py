"""How many flipped labels of SST-2's train split the stage `audit` finds."""

from __future__ import annotations

import sys
import time

import numpy as np

from . import data
from .report import Report

RATES = (0.05, 0.1, 0.2)  # shares of labels that are flipped
LABELS = ["NEGATIVE", "POSITIVE"]


def run(full: bool) -> Report:
    """By frozen features; with --full also by fine-tuning, which takes hours."""
    methods = ("features", "finetune") if full else ("features",)
    return Report("audit", notes=[measure(method, rate) for method in methods for rate in RATES])


def measure(method: str, rate: float, epochs: int = 3) -> str:
    """Precision among the k most suspicious documents, if k labels are flipped, and recall of all that are listed."""
    from pathlib import Path

    from workflow.engine import params
    from workflow.model import folds, suspicion
    from workflow.model.determinism import make_deterministic
    from workflow.model.pipeline import build

    settings = params.load()
    settings = settings.model_copy(update={"finetune": settings.finetune.model_copy(update={"epochs": epochs})})
    make_deterministic(settings)
    rows = data.read_rows(data.SHARED / "sst2/train.jsonl")
    wordpiecer = (nlp := build(settings, Path(data.WEIGHTS), LABELS)).get_pipe("trf_wordpiecer")
    docs = list(wordpiecer.pipe(nlp.tokenizer.pipe(row["text"] for row in rows)))
    given = np.array([LABELS.index(row["label"]) for row in rows])
    flipped = np.zeros(len(rows), bool)
    flipped[np.random.default_rng(0).choice(len(rows), round(rate * len(rows)), replace=False)] = True
    given = np.where(flipped, 1 - given, given)
    for doc, label in zip(docs, given, strict=True):
        doc.cats = {name: float(i == label) for i, name in enumerate(LABELS)}
    gold = np.eye(2)[given]
    start = time.perf_counter()
    parts = folds.split(gold, settings.audit.folds, True, settings.seed)
    p = folds.METHODS[method](settings, Path(data.WEIGHTS), docs, LABELS, gold, parts)
    listed = [suspect.document for suspect in suspicion.rank(gold, p, True)]
    wrong = suspicion.estimate(gold, p, True, 0.95, 0)
    first = flipped[listed[: flipped.sum()]].mean()
    return (
        f"SST-2, {rate:.0%} of labels flipped, {method}: precision {first:.3f} among the first {flipped.sum()}, recall "
        f"{flipped[listed].sum() / flipped.sum():.3f} among the {len(listed)} that are listed; estimated share "
        f"{wrong['share']:.3f} ({wrong['low']:.3f} to {wrong['high']:.3f}); {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    print(measure(sys.argv[1], float(sys.argv[2])))
