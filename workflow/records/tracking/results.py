"""MLflow: the only module that touches it.

A parent run for each distinct result (the tag RESULT), a child run for each stage that led to it (the tag RECEIPT).
Fine-tuning logs its curves to the parent while it runs; the ledger adds all that is missing when the DAG has run.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from ..engine import dag
from ..engine.errors import Problem
from ..model import scores
from . import costs

DEFAULT_URI = "sqlite:///mlflow.db"
RESULT, RECEIPT, PARENT, WHOLE = "rootstock.result", "rootstock.receipt", "mlflow.parentRunId", "rootstock.whole"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI then opens on runs, not on chat traces
ALIAS = "best"

Params = dict[str, Any]  # params.yaml as a receipt keeps it


def _client() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_TRACKING_URI", DEFAULT_URI)
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3"
    )  # 7 would wait four minutes to say that a server is down
    import logging

    import mlflow

    for name in ("alembic", "mlflow.store.db.utils", "mlflow.spacy", "mlflow.store.model_registry"):
        logging.getLogger(name).setLevel(logging.ERROR)  # creating the database is no news
    return mlflow.MlflowClient()


@contextmanager
def _alone() -> Iterator[None]:
    """One process of this clone at a time: a fresh SQLite store cannot be made by two at once."""
    from filelock import FileLock

    with FileLock("mlflow.db.lock"):
        yield


def _experiment(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(name, tags=KIND)
        except MlflowException as error:  # somebody else was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    return found.experiment_id


class Live:
    """The run of a fine-tuning. A server that cannot be reached does not stop the training: the ledger logs later."""

    def __init__(self, params: Params, first: bool) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # training does not wait for a server
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self.run_id: str | None = None
        self._up = first
        if first:
            self._attempt(lambda: self._start(params))

    def _start(self, params: Params) -> None:
        with _alone():
            self._client = _client()
            experiment = _experiment(self._client, params["tracking"]["experiment"])
        self.run_id = self._client.create_run(experiment, run_name=run_name(params)).info.run_id
        _log_params(self._client, self.run_id, _told(params))

    def _attempt(self, action: Any) -> None:
        from mlflow.exceptions import MlflowException

        try:
            action()
        except MlflowException as error:
            print(f"MLflow: not logging while training ({str(error).splitlines()[0]})", file=sys.stderr)
            self._up = False

    def log(self, point: dict[str, float]) -> None:
        if self._up:
            self._attempt(lambda: _log_points(self._client, self.run_id, [point]))

    def finish(self, status: str) -> None:
        if self._up:
            self._attempt(lambda: self._client.set_terminated(self.run_id, status))


@contextmanager
def live(params: Params, first: bool = True) -> Iterator[Live]:
    """first: whether this process is the one of its group that logs."""
    run = Live(params, first)
    try:
        yield run
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish("FINISHED")


def run_name(params: Params) -> str:
    """What tells runs apart at a glance."""
    f = params["finetune"]
    mark = "🔥" if f["trainable"] else "❄️"
    return f"{mark} {f['epochs']}x lr {f['learning_rate']:g} seed {params['seed']}"


def _told(params: Params) -> Params:
    return {key: value for key, value in params.items() if key not in ("tracking", "sweep")}


def _log_params(client: Any, run_id: str, params: Params) -> None:
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in _flat(params).items()])


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def _log_points(client: Any, run_id: str | None, points: list[dict[str, float]]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    for point in points:
        values = {name: value for name, value in point.items() if name not in ("step", "epoch")}
        metrics = [Metric(f"train/{name}", value, now, int(point["step"])) for name, value in values.items()]
        client.log_batch(run_id, metrics=metrics)


def record(
    params: Params, tags: dict[str, str], receipts: costs.Receipts, mine: set[str], model: Path, evaluation: Path
) -> tuple[str, bool]:
    """Bring MLflow up to date with one result. RETURNS: its run id, and whether anything was logged.

    tags: RESULT among them; receipts: of each stage that led to the result; mine: the run ids of this clone.
    Each step leaves alone what is there, so that a record that broke off is completed by the next call.
    Raises Problem where MLflow cannot be reached or refuses.
    """
    from mlflow.exceptions import MlflowException

    try:
        with _alone():
            client = _client()
            experiment = _experiment(client, params["tracking"]["experiment"])
            known = client.search_runs([experiment], f"tags.`{RESULT}` = '{tags[RESULT]}'")
            finetune = next(receipt for stage, receipt in receipts.items() if stage.startswith("finetune@"))
            live_run = _unclaimed(client, finetune["mlflow_run"])
            if known and live_run:  # trained once more, with the same outcome
                client.delete_run(live_run)
            if known and WHOLE in known[0].data.tags:
                return known[0].info.run_id, False
            if known:
                run_id = known[0].info.run_id
            else:
                new = {"run_name": run_name(params), "start_time": _times(finetune)[0]}
                run_id = live_run or client.create_run(experiment, **new).info.run_id
            for name, value in {**tags, "training": _training(finetune, mine)}.items():
                client.set_tag(run_id, name, value)
            _complete(client, experiment, run_id, params, receipts, mine, model, evaluation)
            client.set_tag(run_id, WHOLE, "yes")
            client.set_terminated(run_id, end_time=_times(finetune)[1])
            _share_view(client, experiment)
    except MlflowException as error:
        raise Problem(f"MLflow at {os.environ['MLFLOW_TRACKING_URI']}: {str(error).splitlines()[0]}") from None
    return run_id, True


def _training(finetune: dict[str, Any], mine: set[str]) -> str:
    told = "in this clone" if finetune["run_id"] in mine else "reused"
    if finetune["steps"] < finetune["steps_planned"]:
        told += f", stopped by carbon.budget_g after {finetune['steps']} of {finetune['steps_planned']} steps"
    return told


def _unclaimed(client: Any, run_id: str | None) -> str | None:
    """The run that the fine-tuning logged to, where it is in this store and stands for no result yet."""
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
    """Params, curves, children, data, final scores, cost, plots and the model."""
    _log_params(client, run_id, _told(params))
    for curve in ("train_curve.json", "dev_curve.json"):
        points = json.loads((model / curve).read_text("utf-8"))
        name = next(name for name in points[0] if name not in ("step", "epoch"))
        logged = {metric.step for metric in client.get_metric_history(run_id, f"train/{name}")}
        _log_points(client, run_id, [point for point in points if point["step"] not in logged])
    for stage, receipt in receipts.items():
        _child(client, experiment, run_id, stage, receipt, mine)
    _log_data(client, run_id, params["data"]["folder"], receipts)

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
    _register(client, run_id, params, model)


def _costs(receipts: Iterable[dict[str, Any]]) -> dict[str, float]:
    total = costs.total(receipts)
    return _grouped(
        "energy", {name.replace("kwh", "wh"): total[name] * (1000 if "kwh" in name else 1) for name in total}
    )


def _grouped(group: str, figures: dict[str, float]) -> dict[str, float]:
    """MLflow draws a chart for each metric, by groups: the ends of intervals and ranges get a group of their own."""
    ends = ("_low", "_high")
    return {f"range/{group}_{n}" if n.endswith(ends) else f"{group}/{n}": round(v, 9) for n, v in figures.items()}


COMPUTED = "computed for this run"


def _child(client: Any, experiment: str, parent: str, stage: str, receipt: dict[str, Any], mine: set[str]) -> None:
    """A stage's run, at the time and on the machine of its receipt."""
    from mlflow.entities import Metric, Param

    same = client.search_runs([experiment], f"tags.`{RECEIPT}` = '{receipt['run_id']}'")
    if any(run.data.tags[PARENT] == parent and WHOLE in run.data.tags for run in same):
        return
    for half in (run for run in same if run.data.tags[PARENT] == parent):
        client.delete_run(half.info.run_id)
    origin = COMPUTED
    if receipt["run_id"] not in mine:
        origin = "reused: somebody else's"
    elif any(run.data.tags[PARENT] != parent for run in same):
        origin = "reused: an earlier run's"
    tags = {
        PARENT: parent,
        RECEIPT: receipt["run_id"],
        "origin": origin,
        "host": receipt["host"],
        "energy.method": receipt["method"],
        "mlflow.source.name": f"workflow.{stage.partition('@')[0]}",
        "mlflow.source.type": "PROJECT",
        "mlflow.source.git.commit": receipt["git_commit"],
    }
    start, end = _times(receipt)
    name = stage if origin == COMPUTED else f"{stage} (reused)"
    run_id = client.create_run(experiment, start_time=start, run_name=name, tags=tags).info.run_id
    figures = _costs([receipt])
    settings = {key: dag.look_up(key, receipt["params"]) for key in dag.load()[stage].params}
    client.log_batch(
        run_id,
        metrics=[Metric(name, value, start, 0) for name, value in figures.items()],
        params=[Param(key, str(value)) for key, value in _flat(settings).items()],
    )
    client.set_tag(run_id, WHOLE, "yes")
    client.set_terminated(run_id, end_time=end)


def _times(receipt: dict[str, Any]) -> tuple[int, int]:
    """Start and end of a stage, in milliseconds, as MLflow has them."""
    start = int(datetime.fromisoformat(receipt["started"]).timestamp() * 1000)
    return start, start + int(1000 * receipt["seconds"])


def _log_data(client: Any, run_id: str, folder: str, receipts: costs.Receipts) -> None:
    """The rows of each split, for the column `Dataset`."""
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
    """A label with the characters that MLflow allows."""
    return re.sub(r"[^\w .-]|\.\.", "_", label)


def _register(client: Any, run_id: str, params: Params, model: Path) -> None:
    """The model as a new version of the registered model, and the alias on the best of those from the same data."""
    import mlflow
    import spacy

    name = f"{params['language']}_{params['package']['name']}"
    if not client.search_model_versions(f"run_id = '{run_id}'"):
        with mlflow.start_run(run_id=run_id):
            mlflow.spacy.log_model(
                spacy.load(model / "pipeline"),
                name="model",
                pip_requirements=["spacy-rootstock"],
                registered_model_name=name,
            )
    data = client.get_run(run_id).data.tags["data.sha256"]
    versions = {v.version: client.get_run(v.run_id).data for v in client.search_model_versions(f"name = '{name}'")}
    dev = {
        version: {key: run.metrics[f"dev/{key}"] for key in ("accuracy", "log_loss")}
        for version, run in versions.items()
        if run.tags.get("data.sha256") == data and "dev/log_loss" in run.metrics
    }
    best = min(dev, key=lambda version: (*scores.rank(dev[version]), int(version)))
    client.set_registered_model_alias(name, ALIAS, best)
    rule = f"The alias `{ALIAS}` is on the version with the {scores.RULE}, of those from the same data as the newest."
    client.update_registered_model(name, description=rule)


COLUMNS = ["dev/accuracy", "test/accuracy", "test/macro_f1", "energy/wh", "energy/wh_reused", "energy/seconds"]
CURVES = ["train/loss", "train/dev_accuracy"]
VIEW = "results"


def _share_view(client: Any, experiment: str) -> None:
    """A view for MLflow's UI (`viewStateShareKey=results`): the results alone, best first, and quality against energy.

    Its form is that of MLflow's own button "Share", a tag of the experiment; a version that reads it otherwise shows
    its usual table.
    """
    scatter = {"xaxis": {"key": "energy/wh", "type": "METRIC"}, "yaxis": {"key": "test/accuracy", "type": "METRIC"}}
    lines: list[dict[str, Any]] = [
        {"type": "LINE", "metricKey": key, "selectedMetricKeys": [key], "xAxisKey": "step"} for key in CURVES
    ]
    plain = {"lineSmoothness": 0, "scaleType": "linear", "xAxisScaleType": "linear"}
    shared = {"deleted": False, "isGenerated": False, "metricSectionId": "first", "runsCountToCompare": 20}
    charts = [{"type": "SCATTER", **scatter}, *({**line, **plain} for line in lines)]
    view = {
        "searchFilter": f"tags.`{RESULT}` LIKE '%'",
        "orderByKey": "metrics.`dev/accuracy`",
        "orderByAsc": False,
        "selectedColumns": [f"metrics.`{key}`" for key in COLUMNS],
        "compareRunCharts": [{"uuid": f"chart{i}", **chart, **shared} for i, chart in enumerate(charts)],
        "compareRunSections": [{"uuid": "first", "name": "Quality and energy", "display": True, "isReordered": False}],
        "isAccordionReordered": True,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(view).encode())).decode()
    client.set_experiment_tag(experiment, f"mlflow.sharedViewState.{VIEW}", f"deflate;{packed}")


def page(experiment: str) -> str:
    """The address of that view, on the server or where `make ui` starts one."""
    uri = os.environ["MLFLOW_TRACKING_URI"]
    base = uri if uri.startswith("http") else "http://127.0.0.1:5000"
    return (
        f"{base}/#/experiments/{_experiment(_client(), experiment)}/runs?viewStateShareKey={VIEW}&compareRunsMode=CHART"
    )


def history(experiment: str) -> list[dict[str, Any]]:
    """The results on record, oldest first: name, data.sha256, and the metrics under their names in MLflow."""
    from mlflow.exceptions import MlflowException

    try:
        client = _client()
        found = client.search_runs([_experiment(client, experiment)], f"tags.`{WHOLE}` = 'yes'", max_results=1000)
    except MlflowException as error:
        raise Problem(f"MLflow at {os.environ['MLFLOW_TRACKING_URI']}: {str(error).splitlines()[0]}") from None
    results = [run for run in reversed(found) if RESULT in run.data.tags]
    return [{"name": run.info.run_name, **run.data.tags, **run.data.metrics} for run in results]
