"""Print a summary of results and cost, record the results in MLflow, and add the cost to the model cards.

Not part of the DAG. Running it again changes nothing. After a part of the DAG, it records what is complete.
"""

from __future__ import annotations

import email
import hashlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

from ..engine import command, dag, params
from ..engine.attempt import SPENT, require_as_made
from ..files import digest
from ..model.points import at_point
from . import costs, summary
from .costs import Receipts
from .summary import EXTRAS
from .tracking import extras, results, view

MODEL, EVALUATION, COMPARISON = Path("data/model"), Path("data/evaluation"), Path("data/comparison/best.json")


def main() -> None:
    settings = params.load()
    stages, receipts = dag.load(), costs.receipts()
    missing = gaps(stages, receipts)
    receipts = costs.select(receipts, [stage for stage in stages if stage not in missing])
    costs.record_avoided(receipts)
    points = [stage.partition("@")[2] for stage in receipts if stage.startswith("evaluate@")]
    comparison = json.loads(COMPARISON.read_text("utf-8")) if "compare" in receipts else {}
    best = comparison.get("point")
    for folder, built, stage in (
        ("data/package", "package", f"evaluate@{best}"),
        ("data/vectors", "package_weights", "download_weights"),
    ):
        if built in receipts:  # no stage reads the wheels, and compares them with the receipt
            require_as_made(built, folder, receipts[built]["outs"][folder], digest(Path(folder)))
            write_card(Path(folder), costs.select(receipts, dag.chain(stages[stage], stages)))
    print(summary.text(receipts, points, best))
    print()
    recorded = []
    for point in points:
        upstream = costs.select(receipts, dag.chain(stages[f"evaluate@{point}"], stages))
        run_id, new = record(point, upstream, settings, verdict(point, comparison))
        recorded.append(run_id)
        print(f"MLflow: {point}: {'recorded run' if new else 'nothing new, this result is run'} {run_id}")
    for kind, module in EXTRAS.items():
        for name, facts in module.found(receipts).items():
            title = f"{kind} {name}"
            run_id, new = extras.record(settings.tracking.experiment, title, facts["sha256"], module.figures(facts))
            print(f"MLflow: {title}: {'recorded run' if new else 'nothing new, this is run'} {run_id}")
    if points:
        results.keep_verdicts(settings.tracking.experiment, recorded)
        print(f"        side by side, after `make ui`: {view.page(settings.tracking.experiment)}")
    if missing:
        print(f"ledger: {explain(missing)}", file=sys.stderr)


def gaps(stages: dict[str, dag.Stage], receipts: Receipts) -> dict[str, str]:
    """The stages without a current result: what to call each in a message, with the reason if it is not plain."""
    outs = {out: value for receipt in receipts.values() for out, value in receipt["outs"].items()}
    missing: dict[str, str] = {}
    for name in sorted(stages, key=lambda name: len(dag.chain(stages[name], stages))):  # before those that need it
        if name not in receipts or any(need in missing for need in dag.needs(stages[name], stages)):
            missing[name] = name
        elif differing := _differing(stages[name], stages, receipts[name]["deps"], outs):
            missing[name] = f"{name} (computed from a different {differing[0]})"
    return missing


def _differing(stage: dag.Stage, stages: dict[str, dag.Stage], used: dict[str, str], outs: dict[str, str]) -> list[str]:
    """The results of other stages that a stage used, if they are not those that it would use now."""
    now = {path: outs[path] for path in dag.inputs(stage, stages) if path in outs}
    removed = [path for path in used if path not in now and any(path.startswith(f"{dep}/") for dep in stage.deps)]
    return [path for path in [*now, *removed] if used.get(path) != now.get(path)]


def explain(missing: dict[str, str]) -> str:
    return f"no current result of {', '.join(missing.values())}: run `dvc repro` to the end first"


def verdict(point: str, comparison: dict[str, Any]) -> str:
    """What `compare` says of a point, in words; empty if it has not run, or there is no other point."""
    if not comparison or not comparison["test_p"]:
        return ""
    if point == comparison["point"]:
        return "the best on dev"
    noise = ", within noise" if point in comparison["unclear"] else ""
    return f"p {comparison['test_p'][point]:.2g} on test against {comparison['point']} (McNemar's test){noise}"


def record(point: str, receipts: Receipts, now: params.Params, verdict: str) -> tuple[str, bool]:
    """Record a point of the sweep, with the receipts of its stages. RETURNS: its run id, and whether it is new.

    now: the settings of today, which name the experiment and the registered model.
    verdict: how it compares with the other points.
    """
    sentencize, finetune, evaluate = (
        receipts[s] for s in ("sentencize@train", f"finetune@{point}", f"evaluate@{point}")
    )
    # Each section from the receipt of the stage that reads it.
    settings = at_point(params.Params.model_validate(finetune["params"]), point).model_dump()
    settings |= {"data": sentencize["params"]["data"], "evaluate": evaluate["params"]["evaluate"]}
    settings |= {"package": now.package.model_dump(), "tracking": now.tracking.model_dump()}
    outs = {out: value for r in (finetune, evaluate) for out, value in r["outs"].items()}
    weights = json.loads(Path("data/weights/weights.json").read_text("utf-8"))
    digests = {
        "rootstock.result": hashlib.sha256(json.dumps(outs, sort_keys=True).encode()).hexdigest(),
        "data.sha256": sentencize["deps"][settings["data"]["folder"]],
        **{f"{split}.sha256": rows_digest(EVALUATION / point, split, settings) for split in ("dev", "test")},
        "weights.sha256": weights["sha256"]["model.safetensors"],
        "dvc.lock.sha256": digest(Path("dvc.lock")) if Path("dvc.lock").is_file() else "none: `dvc commit` writes it",
        "mlflow.source.git.commit": finetune["git_commit"],
    }
    mine = {path.stem for path in SPENT.glob("*.json")}
    return results.record(settings, digests, verdict, receipts, mine, MODEL / point, EVALUATION / point)


def rows_digest(evaluation: Path, split: str, settings: dict[str, Any]) -> str:
    """What must be equal for two scores to be comparable: the texts and labels of a split, in any order."""
    with (evaluation / f"{split}.jsonl").open(encoding="utf-8") as file:
        rows = sorted(_row_digest(json.loads(line)) for line in file)
    return hashlib.sha256(bytes([settings["data"]["exclusive"]]) + b"".join(rows)).hexdigest()


def _row_digest(row: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps([row["text"], row["gold"]], sort_keys=True).encode()).digest()


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
    command.main("ledger", main)
