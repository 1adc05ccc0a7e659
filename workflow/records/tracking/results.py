"""Results in MLflow: a parent run for each distinct result, with a child run for each stage that led to it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from ...engine import dag
from ...files import IGNORED
from .. import costs
from . import registry, view
from .client import (
    VERDICT,
    Params,
    active_run,
    errors_as_problems,
    flat,
    log_metrics,
    log_params,
    log_points,
    logged_steps,
    named_params,
    names,
    open_experiment,
    run_name,
)

# Tags. RESULT: digest of a parent run's result. RECEIPT: run id of a child run's receipt. COMPLETE: all is logged.
RESULT, RECEIPT, COMPLETE = "rootstock.result", "rootstock.receipt", "rootstock.whole"
PARENT = "mlflow.parentRunId"


def record(
    params: Params,
    tags: dict[str, str],
    verdict: str,
    receipts: costs.Receipts,
    mine: set[str],
    model: Path,
    evaluation: Path,
) -> tuple[str, bool]:
    """Bring MLflow up to date with one result. RETURNS: its run id, and whether anything was logged.

    tags: RESULT among them; verdict: how it compares with other results, which may change.
    receipts: of each stage that led to the result; mine: the run ids of this clone.
    Each step skips what is there: the next call completes a record that was interrupted, or deleted in part.
    Raises Problem if MLflow cannot be reached or refuses a call.
    """
    with errors_as_problems(), FileLock("mlflow.db.ledger.lock"):  # one ledger of this clone at a time
        client, experiment = open_experiment(params["tracking"]["experiment"])
        finetune = next(receipt for stage, receipt in receipts.items() if stage.startswith("finetune@"))
        start, end = _times(finetune)
        settings = named_params(params)
        run = _find(client, experiment, tags[RESULT], finetune["mlflow_run"], settings)
        run = run or client.create_run(experiment, run_name=run_name(params), start_time=start)
        run_id, new = run.info.run_id, COMPLETE not in run.data.tags
        tags = {**tags, "training": _training(finetune, mine), "energy.method": costs.methods(receipts.values())}
        for name, value in tags.items():
            if new or name not in run.data.tags:
                client.set_tag(run_id, name, value)
        if verdict and run.data.tags.get(VERDICT) != verdict:
            client.set_tag(run_id, VERDICT, verdict)
        logged = [new, _log_children(client, experiment, run_id, receipts, mine)]
        if new:
            log_params(client, run_id, settings)
            _log_curves(client, run_id, model)
            _log_datasets(client, run_id, params["data"]["folder"], receipts)
            _log_figures(client, experiment, run_id, receipts, evaluation)
        logged.append(_log_files(client, run_id, evaluation, new))
        logged.append(registry.register(client, run_id, params, model))
        if any(logged):
            client.set_tag(run_id, COMPLETE, "yes")
            client.set_terminated(run_id, end_time=end)
        view.share(client, experiment)
    return run_id, any(logged)


def keep_verdicts(experiment: str, run_ids: list[str]) -> None:
    """Remove the verdicts on all other results: they are not compared any more."""
    with errors_as_problems():
        client, number = open_experiment(experiment)
        for run in client.search_runs([number], f"tags.`{VERDICT}` LIKE '%'", max_results=1000):
            if run.info.run_id not in run_ids:
                client.delete_tag(run.info.run_id, VERDICT)


def _find(client: Any, experiment: str, result: str, live: str | None, settings: dict[str, str]) -> Any:
    """The run of a result: one that has it, completely if there is one, else the one that the fine-tuning logged to.

    An incomplete run is taken only if its params agree, because MLflow does not change params, and else deleted.
    RETURNS: None if there is no such run.
    """
    runs = {run.info.run_id: run for run in client.search_runs([experiment], f"tags.`{RESULT}` = '{result}'")}
    live_run = active_run(client, live)
    if live_run is not None and COMPLETE not in live_run.data.tags:
        runs[live_run.info.run_id] = live_run
    complete = [run for run in runs.values() if COMPLETE in run.data.tags]
    incomplete = [run for run in runs.values() if COMPLETE not in run.data.tags]
    fitting = [run for run in incomplete if run.info.experiment_id == experiment and _agree(run, settings)]
    found = next(iter([*complete, *fitting]), None)
    for run in incomplete:
        if run is not found:
            client.delete_run(run.info.run_id)
    return found


def _agree(run: Any, settings: dict[str, str]) -> bool:
    return all(run.data.params.get(name, value) == value for name, value in settings.items())


def _training(finetune: dict[str, Any], mine: set[str]) -> str:
    """Where the model was trained, and whether its budget stopped it."""
    text = "in this clone" if finetune["run_id"] in mine else "reused"
    if finetune["steps"] < finetune["steps_planned"]:
        text += f", stopped after {finetune['steps']} of {finetune['steps_planned']} steps: {finetune['ended_early']}"
    return text


def _log_curves(client: Any, run_id: str, model: Path) -> None:
    for curve in ("train_curve.json", "dev_curve.json"):
        points = json.loads((model / curve).read_text("utf-8"))
        name = next(name for name in points[0] if name not in ("step", "epoch"))
        logged = logged_steps(client, run_id, [name])
        log_points(client, run_id, [point for point in points if (name, point["step"]) not in logged])


def _log_figures(client: Any, experiment: str, run_id: str, receipts: costs.Receipts, evaluation: Path) -> None:
    """Log the final scores, and the cost."""
    figures = _costs(receipts.values())
    documents = next(receipt.get("documents") for stage, receipt in receipts.items() if stage.startswith("finetune@"))
    if documents:  # receipts of earlier versions do not say it
        figures["documents/train"] = documents
    for split, metrics in json.loads((evaluation / "metrics.json").read_text("utf-8")).items():
        figures |= _grouped(split, {name: value for name, value in metrics.items() if name not in ("f1", "documents")})
        name_of = names(metrics["f1"])
        figures |= {f"{split}/f1 {name_of[label]}": value for label, value in metrics["f1"].items()}
    figures["energy/wh_reused"] = sum(
        child.data.metrics["energy/wh"]
        for child in _children(client, experiment, run_id)
        if child.data.tags["origin"] != COMPUTED
    )
    log_metrics(client, run_id, figures)


def _log_files(client: Any, run_id: str, evaluation: Path, new: bool) -> bool:
    """Log the files of the evaluation. RETURNS: whether that was necessary."""
    there = {Path(file.path).name for file in client.list_artifacts(run_id, "evaluation")}
    necessary = new or not {path.name for path in evaluation.iterdir()} - IGNORED <= there
    if necessary:
        client.log_artifacts(run_id, str(evaluation), "evaluation")
    return necessary


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
REUSED = " (reused)"  # in the name of a child run


def _children(client: Any, experiment: str, parent: str) -> list[Any]:
    return client.search_runs([experiment], f"tags.`{PARENT}` = '{parent}'")


def _log_children(client: Any, experiment: str, parent: str, receipts: costs.Receipts, mine: set[str]) -> bool:
    """Log a child run for each stage that has none. RETURNS: whether there was such a stage."""
    logged = set()
    for child in _children(client, experiment, parent):
        if COMPLETE in child.data.tags:
            logged.add(child.info.run_name.removesuffix(REUSED))
        else:
            client.delete_run(child.info.run_id)
    missing = {stage: receipt for stage, receipt in receipts.items() if stage not in logged}
    if missing:
        results = client.search_runs([experiment], f"tags.`{RESULT}` LIKE '%'", max_results=50_000)
        others = {run.info.run_id for run in results} - {parent}
        for stage, receipt in missing.items():
            _log_child(client, experiment, parent, others, stage, receipt, mine)
    return bool(missing)


def _log_child(
    client: Any, experiment: str, parent: str, others: set[str], stage: str, receipt: dict[str, Any], mine: set[str]
) -> None:
    """Log the child run of a stage, with the times and the host from its receipt. others: the runs of other results."""
    from mlflow.entities import Metric, Param

    same = client.search_runs([experiment], f"tags.`{RECEIPT}` = '{receipt['run_id']}'")
    parents = {run.info.run_id: run.data.tags.get(PARENT) for run in same}
    for orphan in [run_id for run_id, other in parents.items() if other not in {parent, *others}]:
        client.delete_run(orphan)  # its parent was deleted
    origin = COMPUTED
    if receipt["run_id"] not in mine:
        origin = "reused: computed by others"
    elif others.intersection(parents.values()):
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
    name = stage if origin == COMPUTED else stage + REUSED
    run_id = client.create_run(experiment, start_time=start, run_name=name, tags=tags).info.run_id
    figures = _costs([receipt])
    settings = flat({key: dag.look_up(key, receipt["params"]) for key in dag.load()[stage].params[dag.PARAMS]})
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, start, 0) for name, value in figures.items()],
        params=[Param(name, str(settings[key])) for key, name in names(settings).items()],
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


def history(experiment: str) -> list[dict[str, Any]]:
    """The recorded results, oldest first: each run's name, tags and metrics."""
    with errors_as_problems():
        client, number = open_experiment(experiment)
        runs = client.search_runs([number], f"tags.`{COMPLETE}` = 'yes'", max_results=1000)
    results = [run for run in reversed(runs) if RESULT in run.data.tags]
    return [{"name": run.info.run_name, **run.data.tags, **run.data.metrics} for run in results]
