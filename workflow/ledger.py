"""Sum up what is here, and bring MLflow up to date with it. Outside the DAG; running it again changes nothing."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from . import dag, params, summary, tracking
from .errors import Problem

MODEL, EVALUATION = Path("data/model"), Path("data/evaluation")


def main() -> None:
    receipts = summary.receipts()
    missing = [stage for stage in dag.load() if stage not in receipts]
    if missing:
        raise Problem(f"no receipt of {', '.join(missing)}: run `dvc repro` to its end first")
    points = list(receipts["compare"]["params"]["sweep"])
    for point in points:
        model, evaluated = str(MODEL / point), receipts[f"evaluate@{point}"]["deps"]
        if evaluated[model] != receipts[f"finetune@{point}"]["outs"][model]:
            raise Problem(f"{EVALUATION / point} is of another model than {model}: run `dvc repro` to its end first")
    print(summary.text(receipts))
    print()
    for point in points:
        run_id, new = record(point, receipts)
        print(f"MLflow: {point}: {'recorded run' if new else 'nothing new, this result is run'} {run_id}")


def record(point: str, receipts: dict[str, dict[str, Any]]) -> tuple[str, bool]:
    """One point of the sweep, with the receipts of all that led to it. RETURNS: its run, and whether it is new."""
    finetune, evaluate = receipts[f"finetune@{point}"], receipts[f"evaluate@{point}"]
    shared = {name: receipt for name, receipt in receipts.items() if name.partition("@")[0] in summary.SHARED}
    # Each section as it was when the stage that depends on it ran.
    settings = params.Params.model_validate(finetune["params"]).at(point).model_dump()
    settings = {**settings, "evaluate": evaluate["params"]["evaluate"]}
    result = hashlib.sha256(json.dumps([finetune["outs"], evaluate["outs"]], sort_keys=True).encode()).hexdigest()
    return tracking.record(
        settings, result, {**shared, "finetune": finetune, "evaluate": evaluate}, MODEL / point, EVALUATION / point
    )


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"ledger: error: {problem}")
