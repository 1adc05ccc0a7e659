"""Sum up what is here, and bring MLflow up to date with it. Outside the DAG; running it again changes nothing."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from . import summary, tracking
from .errors import Problem

MODEL, EVALUATION = Path("data/model"), Path("data/evaluation")


def main() -> None:
    receipts = summary.receipts()
    missing = [stage for stage in summary.stages() if stage not in receipts]
    if missing:
        raise Problem(f"no receipt of {', '.join(missing)}: run `dvc repro` to its end first")
    finetune, evaluate = receipts["finetune"], receipts["evaluate"]
    if evaluate["deps"][str(MODEL)] != finetune["outs"][str(MODEL)]:
        raise Problem("data/evaluation is of another model than data/model: run `dvc repro` to its end first")
    metrics = json.loads((EVALUATION / "metrics.json").read_text("utf-8"))
    print(summary.text(receipts, metrics))
    # Each section as it was when the stage that depends on it ran.
    params = {**finetune["params"], "evaluate": evaluate["params"]["evaluate"]}
    result = hashlib.sha256(json.dumps([finetune["outs"], evaluate["outs"]], sort_keys=True).encode()).hexdigest()
    run_id, new = tracking.record(params, result, metrics, receipts, MODEL, EVALUATION)
    print(f"\nMLflow: {'recorded run' if new else 'nothing new, this result is run'} {run_id}")


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"ledger: error: {problem}")
