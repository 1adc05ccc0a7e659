"""Bring MLflow up to date with the results that are here. Outside the DAG; running it again changes nothing."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from . import params, summary, tracking
from .errors import Problem
from .stage import RECEIPTS


def main() -> None:
    settings = params.load()
    receipts = summary.receipts()
    missing = [stage for stage in ("finetune", "evaluate") if stage not in receipts]
    if missing:
        raise Problem(f"no receipt of {' and '.join(missing)} in {RECEIPTS}: run `dvc repro` first")
    evaluation, model = Path("data/evaluation"), Path("data/model")
    metrics = json.loads((evaluation / "metrics.json").read_text("utf-8"))
    made = [receipts[stage]["outs"] for stage in ("finetune", "evaluate")]
    result = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    run_id, new = tracking.record(settings, result, metrics, receipts, model, evaluation)
    print(f"MLflow: {'recorded run' if new else 'nothing new, this result is run'} {run_id} (`make ui` shows it)")


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"ledger: error: {problem}")
