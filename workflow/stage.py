"""What every stage does around its work: check params, set threads and seeds, meter, and leave a receipt."""

from __future__ import annotations

import hashlib
import json
import platform
import random
import shutil
import sys
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import dag, energy, params
from .errors import Problem

RECEIPTS = Path("data/receipts")

Run = Callable[[params.Params, dict[str, Path], dict[str, Path]], dict[str, Any] | None]


def main(name: str, run: Run) -> None:
    """Run one stage as dvc.yaml describes it, and exit. The command line names the item of a `foreach` stage.

    run(params, inputs, outputs): folders by their name below data/, less that of the item: "model", "wordpieces/train";
    may return facts for the receipt.
    """
    try:
        settings = params.load()
        name = "@".join([name, *sys.argv[1:]])
        inputs, outputs = _paths(name)
        _execute(name, run, settings, inputs, outputs)
    except Problem as problem:
        sys.exit(f"{name}: error: {problem}")


def _paths(name: str) -> tuple[dict[str, Path], dict[str, Path]]:
    """The data folders that dvc.yaml gives to a stage."""
    stages = dag.load()
    if name not in stages:
        raise Problem(f"dvc.yaml has no such stage; it has: {', '.join(stages)}")

    def folders(paths: list[str]) -> dict[str, Path]:
        item = name.partition("@")[2]
        found = [Path(path) for path in paths if Path(path).parts[0] == "data" and RECEIPTS not in Path(path).parents]
        return {"/".join(p.parts[1:-1] if p.name == item else p.parts[1:]): p for p in found}

    return folders(stages[name].deps), folders(stages[name].outs)


def _execute(name: str, run: Run, settings: params.Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    random.seed(settings.seed)
    for path in outputs.values():
        path.mkdir(parents=True, exist_ok=True)
    started, begin = datetime.now(UTC), time.perf_counter()
    with energy.metered(settings.carbon.country, settings.carbon.pue) as used:
        try:
            facts = run(settings, inputs, outputs) or {}
        except BaseException:
            for path in outputs.values():
                shutil.rmtree(path, ignore_errors=True)  # half an output is none
            raise
    receipt = {
        "stage": name,
        "run_id": uuid.uuid4().hex,
        "host": platform.node(),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begin, 3),
        "kwh": used.kwh,
        "kwh_low": used.low,
        "kwh_high": used.high,
        "method": used.method,
        "grid_g_per_kwh": used.grid_g_per_kwh,
        "pue": settings.carbon.pue,
        **facts,
        "params": settings.model_dump(),
        "deps": {str(path): digest(path) for path in inputs.values()},
        "outs": {str(path): digest(path) for path in outputs.values()},
    }
    RECEIPTS.mkdir(parents=True, exist_ok=True)
    write_json(RECEIPTS / f"{name}.json", receipt)


def digest(path: Path) -> str:
    """sha256 of a file, or of a folder's names and contents."""
    if path.is_dir():
        files = [p for p in sorted(path.rglob("*")) if p.is_file() and p.name != ".snakemake_timestamp"]
        lines = [f"{digest(p)}  {p.relative_to(path).as_posix()}" for p in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def set_torch(settings: params.Params) -> None:
    """A GPU where there is one; threads and seeds of PyTorch, NumPy and spaCy: for stages that compute with them."""
    import spacy
    import torch

    spacy.prefer_gpu()
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    spacy.util.fix_random_seed(settings.seed)
