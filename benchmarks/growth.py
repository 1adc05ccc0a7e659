"""Ten times the documents: the time and the peak memory of each stage, and of `nlp.pipe`. A process for each."""

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
from .report import Report
from .turns import Contender, Goal, Measured, take_turns

SPLITS = ("train", "dev", "test")
Places = Callable[[Path], list[tuple[dict[str, Path], dict[str, Path]]]]  # inputs and outputs of each run

JOBS: dict[str, Places] = {
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
    "finetune": lambda root: [(_pieces(root) | {"weights": data.WEIGHTS}, {"model": root / "model" / "base"})],
    "evaluate": lambda root: [
        (_pieces(root) | {"model": root / "model" / "base"}, {"evaluation": root / "evaluation" / "base"})
    ],
}


def _pieces(root: Path) -> dict[str, Path]:
    return {"features": root / "features", **{f"wordpieces/{split}": root / "wordpieces" / split for split in SPLITS}}


def run(full: bool) -> Report:
    report = Report("growth")
    sizes = (10_000, 100_000) if full else (2_000, 20_000)
    found: dict[str, dict[str, dict[str, float]]] = {name: {} for name in (*JOBS, "nlp.pipe")}
    for size in sizes:
        with tempfile.TemporaryDirectory() as root:
            write(Path(root), size)
            for name, replies in found.items():
                contender = Contender(f"{size:,} documents", WORK, job=name, root=root)
                replies |= take_turns([contender], [{}])[0]
    small, large = (f"{size:,} documents" for size in sizes)
    for what, unit, most in (("seconds", "seconds", 11), ("peak_mb", "peak MB", 1.1)):
        for name, replies in found.items():
            rounds = [{contender: reply[what] for contender, reply in replies.items()}]
            report.add(Measured(f"{name}: {unit}", unit, small, rounds, [Goal(large, small, most=most)]))
    return report


def write(root: Path, size: int) -> None:
    """So many documents of five words to train on, and to test on; a tenth of that for dev."""
    rows = data.rows(data.SHARED / "sst2" / "train.jsonl")
    words = cycle(word for row in rows for word in row["text"].split() if word.isalpha())
    labels = cycle(sorted({row["label"] for row in rows}))
    for split, n in zip(SPLITS, (size, size // 10, size), strict=True):
        lines = (json.dumps({"text": " ".join(islice(words, 5)), "label": next(labels)}) for _ in range(n))
        (root / f"{split}.jsonl").write_text("\n".join(lines), "utf-8")


WORK = "benchmarks.growth:Job"


class Job:
    """In the worker."""

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
        if self.job == "nlp.pipe":
            self.pipe()
        else:
            stage = importlib.import_module(f"workflow.{self.job}")
            for inputs, outputs in JOBS[self.job](self.root):
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
