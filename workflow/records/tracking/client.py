"""The connection to MLflow, and how params and curves are logged."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...engine.errors import Problem

DEFAULT_URI = "sqlite:///mlflow.db"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # so that the UI opens on runs, not on chat traces

Params = dict[str, Any]  # the content of params.yaml, as in a receipt


def connect() -> Any:
    """MLflow's client, for the server in MLFLOW_TRACKING_URI, or else for the local store."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_TRACKING_URI", DEFAULT_URI)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # with 7, the default, a dead server takes 4 minutes
    import logging

    import mlflow

    for name in ("alembic", "mlflow.store.db.utils", "mlflow.spacy", "mlflow.store.model_registry"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they log each step of creating the database
    return mlflow.MlflowClient()


@contextmanager
def errors_as_problems() -> Iterator[None]:
    """Raise Problem if MLflow cannot be reached or refuses a call."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise Problem(f"MLflow at {os.environ['MLFLOW_TRACKING_URI']}: {str(error).splitlines()[0]}") from None


@contextmanager
def one_process() -> Iterator[None]:
    """Admit one process of this clone at a time: two cannot create a SQLite store at once."""
    from filelock import FileLock

    with FileLock("mlflow.db.lock"):
        yield


def experiment_id(client: Any, name: str) -> str:
    """Id of the experiment with this name, which is created if it does not exist."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return client.create_experiment(name, tags=KIND)
        except MlflowException as error:  # another process has just created it
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
    return experiment.experiment_id


def run_name(params: Params) -> str:
    """The settings that most often differ between runs, at a glance."""
    f = params["finetune"]
    mark = "🔥" if f["trainable"] else "❄️"
    return f"{mark} {f['epochs']}x lr {f['learning_rate']:g} seed {params['seed']}"


def log_params(client: Any, run_id: str, params: Params) -> None:
    """Log all settings of a fine-tuning. The other points of the sweep and the experiment's name are none of them."""
    from mlflow.entities import Param

    settings = {key: value for key, value in params.items() if key not in ("tracking", "sweep")}
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in flat(settings).items()])


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    result = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        result.update(flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return result


def log_points(client: Any, run_id: str | None, points: list[dict[str, float]]) -> None:
    """Log points of the curves, each at its step."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    for point in points:
        values = {name: value for name, value in point.items() if name not in ("step", "epoch")}
        metrics = [Metric(f"train/{name}", value, now, int(point["step"])) for name, value in values.items()]
        client.log_batch(run_id, metrics=metrics)
