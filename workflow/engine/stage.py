"""What every stage does around its work: check params, set threads and seeds, meter, and leave a receipt."""

from __future__ import annotations

import hashlib
import json
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import dag, energy, params
from .errors import Problem

RECEIPTS = Path("data/receipts")  # of what is here: they travel with the results
SPENT = Path("data/ledger/spent")  # of each run in this clone, those that failed too: they stay

Run = Callable[[params.Params, dict[str, Path], dict[str, Path]], dict[str, Any] | None]


def main(name: str, run: Run) -> None:
    """Run one stage as dvc.yaml describes it, and exit. The command line names the item of a `foreach` stage.

    run(params, inputs, outputs): folders by their name below data/, less that of the item: "model", "wordpieces/train";
    may return facts for the receipt.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a job that is cancelled goes as one that fails
    try:
        settings = params.load()
        name = "@".join([name, *sys.argv[1:]])
        stages = dag.load()
        if name not in stages:
            raise Problem(f"dvc.yaml has no such stage; it has: {', '.join(stages)}")
        _execute(stages[name], run, settings)
    except Problem as problem:
        sys.exit(f"{name}: error: {problem}")


def _folders(stage: dag.Stage, paths: list[str]) -> dict[str, Path]:
    item = stage.name.partition("@")[2]
    found = [Path(path) for path in paths if Path(path).parts[0] == "data" and RECEIPTS not in Path(path).parents]
    return {"/".join(p.parts[1:-1] if p.name == item else p.parts[1:]): p for p in found}


def _execute(stage: dag.Stage, run: Run, settings: params.Params) -> None:
    inputs, outputs = _folders(stage, stage.deps), _folders(stage, stage.outs)
    random.seed(settings.seed)
    for path in outputs.values():
        path.mkdir(parents=True, exist_ok=True)
    receipt: dict[str, Any] = {
        "stage": stage.name,
        "run_id": uuid.uuid4().hex,
        "host": platform.node(),
        "git_commit": _git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    begin, used = time.perf_counter(), energy.Energy()
    try:
        with energy.metered(settings.carbon.country, settings.carbon.pue, used):
            facts = run(settings, inputs, outputs) or {}
    except BaseException:
        for path in outputs.values():
            shutil.rmtree(path, ignore_errors=True)  # half an output is none
        facts = {"failed": True}
        raise
    finally:
        receipt |= {
            "seconds": round(time.perf_counter() - begin, 3),
            **asdict(used),
            "pue": settings.carbon.pue,
            **facts,
            "params": settings.model_dump(),
            "deps": {dep: digest(Path(dep)) for dep in stage.deps if Path(dep).exists()},
            "outs": {str(path): digest(path) for path in outputs.values() if path.exists()},
        }
        for folder, name in ((SPENT, receipt["run_id"]), (RECEIPTS, stage.name)):
            if folder == SPENT or "failed" not in facts:
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / f"{name}.json", receipt)


def _git_commit() -> str:
    """Of the code that runs; `-dirty` where it is not what was committed."""
    try:
        git = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True).stdout.strip() or "none"
    except FileNotFoundError:
        return "none"


def digest(path: Path) -> str:
    """sha256 of a file, or of a folder's names and contents."""
    if path.is_dir():
        files = [p for p in sorted(path.rglob("*")) if p.is_file() and not dag.UNTRACKED & set(p.parts)]
        lines = [f"{digest(p)}  {p.relative_to(path).as_posix()}" for p in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")


def set_torch(settings: params.Params, rank: int = 0, processes: int = 1) -> None:
    """A GPU where there is one; threads and seeds of PyTorch, NumPy and spaCy: for stages that compute with them.

    Of several processes each has a GPU of its own, and its share of the threads.
    """
    import spacy
    import torch

    spacy.prefer_gpu(rank)
    torch.set_num_threads(max(1, settings.threads // processes))
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # nobody reads it
    spacy.util.fix_random_seed(settings.seed)
