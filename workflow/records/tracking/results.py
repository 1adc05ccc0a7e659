"""Results in MLflow: a parent run for each distinct result, with a child run for each stage that led to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from ...engine import dag
from .. import costs
from . import registry, view
from .client import (
    Params,
    connect,
    errors_as_problems,
    experiment_id,
    flat,
    log_params,
    log_points,
    one_process,
    run_name,
)

# Tags. RESULT: digest of a parent run's result. RECEIPT: run id of a child run's receipt. COMPLETE: all is logged.
RESULT, RECEIPT, COMPLETE = "rootstock.result", "rootstock.receipt", "rootstock.whole"
PARENT = "mlflow.parentRunId"


def record(
    params: Params, tags: dict[str, str], receipts: costs.Receipts, mine: set[str], model: Path, evaluation: Path
) -> tuple[str, bool]:
    """Bring MLflow up to date with one result. RETURNS: its run id, and whether anything was logged.

    tags: RESULT among them; receipts: of each stage that led to the result; mine: the run ids of this clone.
    Each step skips what is already recorded, so that the next call completes an interrupted record.
    Raises Problem if MLflow cannot be reached or refuses a call.
    """
    with errors_as_problems(), one_process():
        client = connect()
        experiment = experiment_id(client, params["tracking"]["experiment"])
        recorded = client.search_runs([experiment], f"tags.`{RESULT}` = '{tags[RESULT]}'")
        finetune = next(receipt for stage, receipt in receipts.items() if stage.startswith("finetune@"))
        live_run = _unrecorded(client, finetune["mlflow_run"])
        if recorded and live_run:  # trained again, with the same result
            client.delete_run(live_run)
        if recorded and COMPLETE in recorded[0].data.tags:
            return recorded[0].info.run_id, False
        if recorded:
            run_id = recorded[0].info.run_id
        else:
            new = {"run_name": run_name(params), "start_time": _times(finetune)[0]}
            run_id = live_run or client.create_run(experiment, **new).info.run_id
        for name, value in {**tags, "training": _training(finetune, mine)}.items():
            client.set_tag(run_id, name, value)
        _complete(client, experiment, run_id, params, receipts, mine, model, evaluation)
        client.set_tag(run_id, COMPLETE, "yes")
        client.set_terminated(run_id, end_time=_times(finetune)[1])
        view.share(client, experiment)
    return run_id, True


def _training(finetune: dict[str, Any], mine: set[str]) -> str:
    """Where the model was trained, and whether its budget stopped it."""
    text = "in this clone" if finetune["run_id"] in mine else "reused"
    if finetune["steps"] < finetune["steps_planned"]:
        text += f", stopped by carbon.budget_g after {finetune['steps']} of {finetune['steps_planned']} steps"
    return text


def _unrecorded(client: Any, run_id: str | None) -> str | None:
    """The run that the fine-tuning logged to, if it is in this store and no result is recorded in it."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return run_id if RESULT not in run.data.tags and run.info.lifecycle_stage == "active" else None


def _complete(
    client: Any,
    experiment: str,
    run_id: str,
    params: Params,
    receipts: costs.Receipts,
    mine: set[str],
    model: Path,
    evaluation: Path,
) -> None:
    """Log params, curves, child runs, datasets, final scores, cost, plots and the model, unless already logged."""
    log_params(client, run_id, params)
    for curve in ("train_curve.json", "dev_curve.json"):
        points = json.loads((model / curve).read_text("utf-8"))
        name = next(name for name in points[0] if name not in ("step", "epoch"))
        logged = {metric.step for metric in client.get_metric_history(run_id, f"train/{name}")}
        log_points(client, run_id, [point for point in points if point["step"] not in logged])
    for stage, receipt in receipts.items():
        _log_child(client, experiment, run_id, stage, receipt, mine)
    _log_datasets(client, run_id, params["data"]["folder"], receipts)

    figures = _costs(receipts.values())
    for split, metrics in json.loads((evaluation / "metrics.json").read_text("utf-8")).items():
        figures |= _grouped(split, {name: value for name, value in metrics.items() if name not in ("f1", "documents")})
        figures |= {f"{split}/f1 {_metric_name(label)}": value for label, value in metrics["f1"].items()}
    children = client.search_runs([experiment], f"tags.`{PARENT}` = '{run_id}'")
    figures["energy/wh_reused"] = sum(
        child.data.metrics["energy/wh"] for child in children if child.data.tags["origin"] != COMPUTED
    )
    for name, value in figures.items():
        client.log_metric(run_id, name, value)
    client.set_tag(run_id, "energy.method", costs.methods(receipts.values()))
    client.log_artifacts(run_id, str(evaluation), "evaluation")
    registry.register(client, run_id, params, model)


def _costs(receipts: Iterable[dict[str, Any]]) -> dict[str, float]:
    total = costs.total(receipts)
    return _grouped(
        "energy", {name.replace("kwh", "wh"): total[name] * (1000 if "kwh" in name else 1) for name in total}
    )


def _grouped(group: str, figures: dict[str, float]) -> dict[str, float]:
    """Names with a group: MLflow groups charts by the part before the slash. Ends of intervals have their own group."""
    ends = ("_low", "_high")
    return {
        f"range/{group}_{name}" if name.endswith(ends) else f"{group}/{name}": round(value, 9)
        for name, value in figures.items()
    }


COMPUTED = "computed for this run"


def _log_child(client: Any, experiment: str, parent: str, stage: str, receipt: dict[str, Any], mine: set[str]) -> None:
    """Log the child run of a stage, with the times and the host from its receipt."""
    from mlflow.entities import Metric, Param

    same = client.search_runs([experiment], f"tags.`{RECEIPT}` = '{receipt['run_id']}'")
    if any(run.data.tags[PARENT] == parent and COMPLETE in run.data.tags for run in same):
        return
    for incomplete in (run for run in same if run.data.tags[PARENT] == parent):
        client.delete_run(incomplete.info.run_id)
    origin = COMPUTED
    if receipt["run_id"] not in mine:
        origin = "reused: computed by others"
    elif any(run.data.tags[PARENT] != parent for run in same):
        origin = "reused: an earlier run's"
    tags = {
        PARENT: parent,
        RECEIPT: receipt["run_id"],
        "origin": origin,
        "host": receipt["host"],
        "energy.method": receipt["method"],
        "mlflow.source.name": f"workflow.stages.{stage.partition('@')[0]}",
        "mlflow.source.type": "PROJECT",
        "mlflow.source.git.commit": receipt["git_commit"],
    }
    start, end = _times(receipt)
    name = stage if origin == COMPUTED else f"{stage} (reused)"
    run_id = client.create_run(experiment, start_time=start, run_name=name, tags=tags).info.run_id
    figures = _costs([receipt])
    settings = {key: dag.look_up(key, receipt["params"]) for key in dag.load()[stage].params[dag.PARAMS]}
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, start, 0) for name, value in figures.items()],
        params=[Param(key, str(value)) for key, value in flat(settings).items()],
    )
    client.set_tag(run_id, COMPLETE, "yes")
    client.set_terminated(run_id, end_time=end)


def _times(receipt: dict[str, Any]) -> tuple[int, int]:
    """Start and end of a stage, in milliseconds since 1970."""
    start = int(datetime.fromisoformat(receipt["started"]).timestamp() * 1000)
    return start, start + int(1000 * receipt["seconds"])


def _log_datasets(client: Any, run_id: str, folder: str, receipts: costs.Receipts) -> None:
    """Log the data of each split, for the column `Dataset` of the UI."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    if client.get_run(run_id).inputs.dataset_inputs:
        return
    inputs = []
    for split, context in (("train", "training"), ("dev", "validation"), ("test", "testing")):
        [digest] = [d for out, d in receipts[f"sentencize@{split}"]["outs"].items() if out.startswith("data/sentences")]
        source = json.dumps({"uri": f"{folder}/{split}"})
        dataset = Dataset(f"{Path(folder).name} {split}", digest[:36], "local", source)
        inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
    client.log_inputs(run_id, datasets=inputs)


def _metric_name(label: str) -> str:
    """A label, with characters that MLflow does not allow replaced."""
    return re.sub(r"[^\w .-]|\.\.", "_", label)


def history(experiment: str) -> list[dict[str, Any]]:
    """The recorded results, oldest first: each run's name, tags and metrics."""
    with errors_as_problems():
        client = connect()
        runs = client.search_runs([experiment_id(client, experiment)], f"tags.`{COMPLETE}` = 'yes'", max_results=1000)
    results = [run for run in reversed(runs) if RESULT in run.data.tags]
    return [{"name": run.info.run_name, **run.data.tags, **run.data.metrics} for run in results]
