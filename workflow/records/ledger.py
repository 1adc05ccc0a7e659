"""Print a summary of results and cost, record the results in MLflow, and add the cost to the model cards.

Not part of the DAG. Running it again changes nothing.
"""

from __future__ import annotations

import email
import hashlib
import json
import sys
import zipfile
from pathlib import Path

from ..engine import dag, params
from ..engine.errors import Problem
from ..engine.stage import SPENT
from ..files import digest
from ..model.points import at_point
from . import costs, summary
from .costs import Receipts
from .tracking import results, view

MODEL, EVALUATION = Path("data/model"), Path("data/evaluation")


def main() -> None:
    stages, receipts = dag.load(), costs.receipts()
    check(stages, receipts)
    costs.record_avoided(receipts)
    points = list(receipts["compare"]["params"]["sweep"])
    best = json.loads(Path("data/comparison/best.json").read_text("utf-8"))["point"]
    for folder, stage in (("data/package", f"evaluate@{best}"), ("data/vectors", "download_weights")):
        write_card(Path(folder), costs.select(receipts, dag.chain(stages[stage], stages)))
    print(summary.text(receipts))
    print()
    for point in points:
        upstream = costs.select(receipts, dag.chain(stages[f"evaluate@{point}"], stages))
        run_id, new = record(point, upstream)
        print(f"MLflow: {point}: {'recorded run' if new else 'nothing new, this result is run'} {run_id}")
    print(f"        side by side, after `make ui`: {view.page(params.load().tracking.experiment)}")


def check(stages: dict[str, dag.Stage], receipts: Receipts) -> None:
    """Raises Problem if results are missing, or if a stage was computed from other results than the current ones."""
    missing = [stage for stage in stages if stage not in receipts]
    if missing:
        raise Problem(f"no receipt of {', '.join(missing)}: run `dvc repro` to the end first")
    digests = {out: value for receipt in receipts.values() for out, value in receipt["outs"].items()}
    for name, receipt in receipts.items():
        for dep, value in receipt["deps"].items():
            if digests.get(dep, value) != value:
                raise Problem(f"{name} was computed from a different {dep}: run `dvc repro` first")


def record(point: str, receipts: Receipts) -> tuple[str, bool]:
    """Record a point of the sweep, with the receipts of its stages. RETURNS: its run id, and whether it is new."""
    sentencize, finetune, evaluate = (
        receipts[s] for s in ("sentencize@train", f"finetune@{point}", f"evaluate@{point}")
    )
    # Each section from the receipt of the stage that reads it.
    settings = at_point(params.Params.model_validate(finetune["params"]), point).model_dump()
    settings |= {"data": sentencize["params"]["data"], "evaluate": evaluate["params"]["evaluate"]}
    outs = {out: value for r in (finetune, evaluate) for out, value in r["outs"].items()}
    weights = json.loads(Path("data/weights/weights.json").read_text("utf-8"))
    digests = {
        "rootstock.result": hashlib.sha256(json.dumps(outs, sort_keys=True).encode()).hexdigest(),
        "data.sha256": sentencize["deps"][settings["data"]["folder"]],
        "weights.sha256": weights["sha256"]["model.safetensors"],
        "dvc.lock.sha256": digest(Path("dvc.lock")) if Path("dvc.lock").is_file() else "none: `dvc commit` writes it",
        "mlflow.source.git.commit": finetune["git_commit"],
    }
    mine = {path.stem for path in SPENT.glob("*.json")}
    return results.record(settings, digests, receipts, mine, MODEL / point, EVALUATION / point)


def write_card(folder: Path, receipts: Receipts) -> None:
    """Write a copy of the wheel's model card, with the cost added, next to the wheel: no wheel has measured figures."""
    [wheel] = [path for path in folder.glob("*.whl") if not path.name.startswith("spacy_rootstock-")]
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        card = email.message_from_bytes(archive.read(metadata)).get_payload(decode=True)
    assert isinstance(card, bytes)
    text = f"{card.decode('utf-8').strip()}\n\n## What it cost\n\n{costs.markdown(receipts)}\n"
    (folder / "MODEL_CARD.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"ledger: error: {problem}")
