"""The connection to MLflow, and how params and curves are logged."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from ...engine.errors import Problem, printable

VERDICT = "comparison"  # tag: how a result compares with the others
AT_ONCE = 1000  # metrics in a call, which is MLflow's limit
DEFAULT_URI = "sqlite:///mlflow.db"
KIND = {"mlflow.experimentKind": "custom_model_development"}  # so that the UI opens on runs, not on chat traces

# Sections of params.yaml that are no settings of a result.
NOT_LOGGED = ("checkpoints", "package", "package_weights", "search", "sweep", "tracking")

Params = dict[str, Any]  # the content of params.yaml, as in a receipt


def connect() -> Any:
    """MLflow's client, for the server in MLFLOW_TRACKING_URI, or else for the local store."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_TRACKING_URI", DEFAULT_URI)
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # By MLflow's defaults, a server that is down takes 4 minutes, and one that never answers 16.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    _take_password()
    import mlflow

    for name in ("alembic", "mlflow.store.db.utils", "mlflow.pyfunc", "mlflow.store.model_registry"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they log each step of creating the database
    return mlflow.MlflowClient()


def _take_password() -> None:
    """Move user and password from the server's URL to the variables that MLflow has for them: it prints the URL."""
    url = urlsplit(os.environ["MLFLOW_TRACKING_URI"])
    if url.scheme.startswith("http") and url.username and url.password:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(url.username)
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(url.password)
        os.environ["MLFLOW_TRACKING_URI"] = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()


def _without_passwords(text: str) -> str:
    """A text in which URLs have neither user and password nor a query."""
    return re.sub(r"(?<!sqlite:)(?<!/)//\S*@", "//", re.sub(r"(://[^\s?]*)\?\S*", r"\1", text))


def reason(error: Exception) -> str:
    """What an error says, in one line. A server may have written it."""
    kind, said = type(error).__name__, (str(error).strip().splitlines() or [""])[0]
    if not said:
        return kind
    said = printable(_without_passwords(said))
    return said if type(error).__module__.startswith("mlflow.") else f"{kind}: {said}"


@contextmanager
def errors_as_problems() -> Iterator[None]:
    """Raise Problem if MLflow cannot be reached, refuses a call, or fails in any other way."""
    try:
        yield
    except Exception as error:
        uri = _without_passwords(os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_URI))
        raise Problem(f"MLflow at {uri}: {reason(error)}") from None


def unless_gone(get: Callable[[], Any]) -> Any:
    """What `get` returns; None if it asks for something that is no longer in the store."""
    from mlflow.exceptions import MlflowException

    try:
        return get()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def active_run(client: Any, run_id: str | None) -> Any:
    """The run with this id; None if it is not in this store, or deleted."""
    run = unless_gone(lambda: client.get_run(run_id)) if run_id else None
    return run if run is not None and run.info.lifecycle_stage == "active" else None


def open_experiment(name: str) -> tuple[Any, str]:
    """MLflow's client, and the id of the experiment with this name."""
    remote = os.environ.get("MLFLOW_TRACKING_URI", DEFAULT_URI).startswith("http")
    # Two processes of this clone cannot create a SQLite store at once.
    with nullcontext() if remote else FileLock("mlflow.db.lock", timeout=60):
        client = connect()
        return client, experiment_id(client, name)


def experiment_id(client: Any, name: str) -> str:
    """Id of the experiment with this name, which is created if it does not exist, and restored if it was deleted."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    try:
        if experiment is None:
            return client.create_experiment(name, tags=KIND)
        if experiment.lifecycle_stage == "deleted":  # its name cannot be used again
            client.restore_experiment(experiment.experiment_id)
            print(f"MLflow: the experiment {name!r} was deleted: restored, with its runs", file=sys.stderr)
    except MlflowException:
        experiment = client.get_experiment_by_name(name)
        if experiment is None or experiment.lifecycle_stage == "deleted":
            raise
        # Another process has just done the same.
    return experiment.experiment_id


def run_name(params: Params) -> str:
    """The settings that most often differ between runs, at a glance."""
    f = params["finetune"]
    mark = "🔥" if f["trainable"] else "❄️"
    return f"{mark} {f['epochs']}x lr {f['learning_rate']:g} seed {params['seed']}"


def named_params(params: Params) -> dict[str, str]:
    """The settings of a fine-tuning by the names of MLflow's params."""
    settings = {key: value for key, value in params.items() if key not in NOT_LOGGED}
    values = flat(settings)
    return {name: str(values[key]) for key, name in names(values).items()}


def log_params(client: Any, run_id: str, params: dict[str, str]) -> None:
    """Log params that `named_params` has named."""
    from mlflow.entities import Param

    client.log_batch(run_id, params=[Param(name, value) for name, value in params.items()])


def names(texts: Iterable[str]) -> dict[str, str]:
    """A name that MLflow allows for each text. Those that would be the same, capitals aside, end in a digest."""
    allowed = {text: re.sub(r"[^\w .-]|\.\.", "_", text)[:200] for text in texts}
    shared = Counter(name.casefold() for name in allowed.values())
    return {
        text: name if shared[name.casefold()] == 1 else f"{name} {hashlib.sha256(text.encode()).hexdigest()[:8]}"
        for text, name in allowed.items()
    }


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    result = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        result.update(flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return result


def log_metrics(client: Any, run_id: str, figures: dict[str, float]) -> None:
    """Log figures without steps."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, 0) for name, value in figures.items()]
    for first in range(0, len(metrics), AT_ONCE):
        client.log_batch(run_id, metrics=metrics[first : first + AT_ONCE])


def log_points(client: Any, run_id: str | None, points: list[dict[str, float]]) -> None:
    """Log points of the curves, each at its step."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    for point in points:
        values = {name: value for name, value in point.items() if name not in ("step", "epoch")}
        metrics = [Metric(f"train/{name}", value, now, int(point["step"])) for name, value in values.items()]
        client.log_batch(run_id, metrics=metrics)


def logged_steps(client: Any, run_id: str | None, metrics: Iterable[str]) -> set[tuple[str, float]]:
    """The steps at which a run has points of these curves, each with the curve's name."""
    return {(name, metric.step) for name in metrics for metric in client.get_metric_history(run_id, f"train/{name}")}
