"""Time and peak memory of each workflow stage and of `nlp.pipe`, for ten times as many documents.

Each measurement runs in its own process.
"""

from __future__ import annotations

import importlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from . import data
from .harness import Contender, Goal, Measurement, run_interleaved
from .report import Report

SPLITS = ("train", "dev", "test")

# For each stage: the folder of the data -> the inputs and outputs of each run of the stage.
STAGES: dict[str, Callable[[Path], list[tuple[dict[str, Path], dict[str, Path]]]]] = {
    "sentencize": lambda root: [({}, {"sentences": root / "sentences" / split}) for split in SPLITS],
    "wordpiece": lambda root: [
        (
            {"sentences": root / "sentences" / split, "weights": data.WEIGHTS},
            {"wordpieces": root / "wordpieces" / split},
        )
        for split in SPLITS
    ],
    "encode": lambda root: [
        ({"wordpieces": root / "wordpieces", "weights": data.WEIGHTS}, {"features": root / "features"})
    ],
    "finetune": lambda root: [(_model_inputs(root) | {"weights": data.WEIGHTS}, {"model": root / "model" / "base"})],
    "evaluate": lambda root: [
        (_model_inputs(root) | {"model": root / "model" / "base"}, {"evaluation": root / "evaluation" / "base"})
    ],
}
PIPE = "nlp.pipe"


def _model_inputs(root: Path) -> dict[str, Path]:
    return {"features": root / "features", **{f"wordpieces/{split}": root / "wordpieces" / split for split in SPLITS}}


def run(full: bool) -> Report:
    report = Report("scaling")
    sizes = (10_000, 100_000) if full else (2_000, 20_000)
    replies: dict[str, dict[str, dict[str, float]]] = {job: {} for job in (*STAGES, PIPE)}
    for size in sizes:
        with tempfile.TemporaryDirectory() as root:
            write_documents(Path(root), size)
            for job, by_size in replies.items():
                contender = Contender(f"{size:,} documents", "benchmarks.scaling:Job", job=job, root=root)
                by_size |= run_interleaved([contender], [{}])[0]
    small, large = (f"{size:,} documents" for size in sizes)
    for key, unit, at_most in (("seconds", "seconds", 11), ("peak_mb", "peak MB", 1.1)):
        for job, by_size in replies.items():
            rounds = [{size: reply[key] for size, reply in by_size.items()}]
            report.add(Measurement(f"{job}: {unit}", unit, small, rounds, [Goal(large, small, at_most=at_most)]))
    return report


def write_documents(root: Path, size: int) -> None:
    """Write documents of five words: `size` for train, as many for test, and a tenth of that for dev."""
    rows = data.read_rows(data.SHARED / "sst2" / "train.jsonl")
    words = cycle(word for row in rows for word in row["text"].split() if word.isalpha())
    labels = cycle(sorted({row["label"] for row in rows}))
    for split, n in zip(SPLITS, (size, size // 10, size), strict=True):
        lines = (json.dumps({"text": " ".join(islice(words, 5)), "label": next(labels)}) for _ in range(n))
        (root / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")


class Job:
    """Contender: one stage, or `nlp.pipe`."""

    def __init__(self, job: str, root: str) -> None:
        from workflow.engine import params

        self.job, self.root = job, Path(root)
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{root}/mlflow.db"
        settings = params.load()
        self.params = settings.model_copy(
            update={
                "data": settings.data.model_copy(update={"folder": root}),
                "encode": settings.encode.model_copy(update={"features": True}),
                "finetune": settings.finetune.model_copy(update={"epochs": 1, "batch_size": 32}),
            }
        )

    def __call__(self) -> dict[str, Any]:
        start = time.perf_counter()
        if self.job == PIPE:
            self.pipe()
        else:
            stage = importlib.import_module(f"workflow.stages.{self.job}")
            for inputs, outputs in STAGES[self.job](self.root):
                for folder in outputs.values():
                    folder.mkdir(parents=True)
                stage.run(self.params, inputs, outputs)
        return {"seconds": time.perf_counter() - start}

    def pipe(self) -> None:
        import spacy

        nlp = spacy.blank("en")
        nlp.add_pipe("trf_wordpiecer", config={"weights": str(data.WEIGHTS)})
        nlp.add_pipe("trf_tok2vec", config={"weights": str(data.WEIGHTS)})
        with (self.root / "train.jsonl").open(encoding="utf-8") as file:
            for doc in nlp.pipe(json.loads(line)["text"] for line in file):
                assert len(doc.tensor) == len(doc)
