"""MLflow: the only module that touches it.

Fine-tuning logs its curves while it runs; the ledger completes the run when the whole DAG has run. There is one run
for each distinct result, found by the tag RESULT.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import Problem

DEFAULT_URI = "sqlite:///mlflow.db"
RESULT = "rootstock.result"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI then opens on runs, not on chat traces


def _client() -> Any:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_TRACKING_URI", DEFAULT_URI)
    import logging

    import mlflow

    for name in ("alembic", "mlflow.store.db.utils", "mlflow.spacy"):
        logging.getLogger(name).setLevel(logging.ERROR)  # creating the database is no news
    return mlflow.MlflowClient()


def _experiment(client: Any, name: str) -> str:
    found = client.get_experiment_by_name(name)
    return found.experiment_id if found else client.create_experiment(name, tags=KIND)


Params = dict[str, Any]  # params.yaml as a receipt keeps it


class Live:
    """The run of a fine-tuning. A server that cannot be reached does not stop the training: the ledger logs later."""

    def __init__(self, params: Params) -> None:
        self.run_id: str | None = None
        self._client: Any = None
        self._attempt(lambda: self._start(params))

    def _start(self, params: Params) -> None:
        client = _client()
        experiment = _experiment(client, params["tracking"]["experiment"])
        run = client.create_run(experiment, run_name=run_name(params))
        self._client, self.run_id = client, run.info.run_id
        _log_params(client, run.info.run_id, params)

    def _attempt(self, action: Any) -> None:
        from mlflow.exceptions import MlflowException

        try:
            action()
        except MlflowException as error:
            print(f"MLflow: not logging while training ({str(error).splitlines()[0]})", file=sys.stderr)
            self._client = self.run_id = None  # what it holds is not whole: the ledger makes another

    def log(self, point: dict[str, float]) -> None:
        if self._client is not None:
            self._attempt(lambda: _log_points(self._client, self.run_id, [point]))

    def finish(self, status: str) -> None:
        if self._client is not None:
            self._attempt(lambda: self._client.set_terminated(self.run_id, status))


@contextmanager
def live(params: Params) -> Iterator[Live]:
    run = Live(params)
    try:
        yield run
    except BaseException:
        run.finish("FAILED")
        raise
    run.finish("FINISHED")


def run_name(params: Params) -> str:
    """What tells runs apart at a glance."""
    data, f = Path(params["data"]["folder"]).name, params["finetune"]
    mark = "🔥" if f["trainable"] else "❄️"
    return f"{data} {mark} {f['epochs']}x lr {f['learning_rate']:g} seed {params['seed']}"


def _log_params(client: Any, run_id: str, params: Params) -> None:
    from mlflow.entities import Param

    flat = _flat({key: value for key, value in params.items() if key not in ("tracking", "sweep")})
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flat.items()])


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def _log_points(client: Any, run_id: str | None, points: list[dict[str, float]]) -> None:
    import time

    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    for point in points:
        values = {name: value for name, value in point.items() if name not in ("step", "epoch")}
        metrics = [Metric(f"train/{name}", value, now, int(point["step"])) for name, value in values.items()]
        client.log_batch(run_id, metrics=metrics)


def record(params: Params, result: str, receipts: dict[str, dict], model: Path, evaluation: Path) -> tuple[str, bool]:
    """Bring MLflow up to date with one result. RETURNS: its run id, and whether anything was logged.

    Raises Problem where MLflow cannot be reached or refuses.
    """
    from mlflow.exceptions import MlflowException

    try:
        client = _client()
        experiment = _experiment(client, params["tracking"]["experiment"])
        known = client.search_runs([experiment], f"tags.`{RESULT}` = '{result}'")
        live_run = _unclaimed(client, receipts["finetune"].get("mlflow_run"))
        if known:
            if live_run:  # trained once more, with the same outcome
                client.delete_run(live_run)
            return known[0].info.run_id, False
        run_id = live_run or _from_files(client, experiment, params, model)
        _complete(client, run_id, receipts, model, evaluation)
        training = "in this clone" if live_run else "reused"
        finetune = receipts["finetune"]
        if finetune["steps"] < finetune["steps_planned"]:
            training += f", stopped by carbon.budget_g after {finetune['steps']} of {finetune['steps_planned']} steps"
        for name, value in {"training": training, "energy.method": receipts["finetune"]["method"]}.items():
            client.set_tag(run_id, name, value)
        client.set_tag(run_id, RESULT, result)  # last: a run that lacks it is not whole
        client.set_terminated(run_id)
    except MlflowException as error:
        raise Problem(f"MLflow at {os.environ['MLFLOW_TRACKING_URI']}: {str(error).splitlines()[0]}") from None
    return run_id, True


def _from_files(client: Any, experiment: str, params: Params, model: Path) -> str:
    """A run for a training that was logged nowhere here: restored from a cache, or out of the server's reach."""
    import srsly

    name = run_name(params)
    for run in client.search_runs([experiment], f"attributes.run_name = '{name}'"):
        if run.data.tags.get("training") == "unfinished record":
            client.delete_run(run.info.run_id)  # of an earlier attempt that failed half way
    run_id = client.create_run(experiment, run_name=name, tags={"training": "unfinished record"}).info.run_id
    _log_params(client, run_id, params)
    for curve in ("train_curve.json", "dev_curve.json"):
        _log_points(client, run_id, srsly.read_json(model / curve))
    return run_id


def _complete(client: Any, run_id: str, receipts: dict[str, dict], model: Path, evaluation: Path) -> None:
    """Final scores, cost, plots and the model."""
    import mlflow
    import spacy
    import srsly

    figures: dict[str, float] = {}
    for split, scores in srsly.read_json(evaluation / "metrics.json").items():
        figures |= {f"{split}/{name}": value for name, value in scores.items() if name != "f1"}
        figures |= {f"{split}/f1 {_metric_name(label)}": value for label, value in scores["f1"].items()}
    figures["energy/kwh"] = sum(r["kwh"] for r in receipts.values())
    figures["energy/co2_g"] = sum(r["kwh"] * r["grid_g_per_kwh"] for r in receipts.values())
    figures["energy/seconds"] = sum(r["seconds"] for r in receipts.values())
    for name, value in figures.items():
        client.log_metric(run_id, name, value)
    client.log_artifacts(run_id, str(evaluation), "evaluation")
    with mlflow.start_run(run_id=run_id):
        mlflow.spacy.log_model(spacy.load(model / "pipeline"), name="model", pip_requirements=["spacy-rootstock"])


def _metric_name(label: str) -> str:
    """A label with the characters that MLflow allows."""
    return re.sub(r"[^\w .-]|\.\.", "_", label)


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
