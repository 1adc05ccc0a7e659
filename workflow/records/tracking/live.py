"""The MLflow run of a fine-tuning in progress."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...engine.stop import Stopped
from . import client
from .client import Params

PLACE = "rootstock.place"  # tag: digest of the machine and the folder of the model that is trained


class LiveRun:
    """Logs curves while training. Training continues if that fails: the ledger logs them later."""

    def __init__(self, params: Params, model: Path, enabled: bool, run_id: str | None) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # training must not wait for a server
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self.run_id = run_id
        self._enabled = enabled
        self._logged: set[tuple[str, float]] = set()  # metrics and their steps
        self._attempt(lambda: self._start(params, model, run_id))

    def _start(self, params: Params, model: Path, run_id: str | None) -> None:
        self._client, experiment = client.open_experiment(params["tracking"]["experiment"])
        place = hashlib.sha256(f"{platform.node()} {model.resolve()}".encode()).hexdigest()
        for run in self._client.search_runs([experiment], f"tags.`{PLACE}` = '{place}' and status = 'RUNNING'"):
            self._client.set_terminated(run.info.run_id, "KILLED")  # only one stage at a time writes a model
        if client.active_run(self._client, run_id) is not None:
            self.run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
            self._logged = client.logged_steps(self._client, run_id, ("loss", "dev_loss"))
        else:
            run = self._client.create_run(experiment, run_name=client.run_name(params), tags={PLACE: place})
            self.run_id = run.info.run_id
            client.log_params(self._client, self.run_id, client.named_params(params))

    def _attempt(self, action: Callable[[], None]) -> None:
        if not self._enabled:
            return
        try:
            action()
        except Exception as error:  # whatever it is, it must not stop the training
            print(f"MLflow: not logging while training ({client.reason(error)})", file=sys.stderr)
            self._enabled = False

    def log(self, point: dict[str, float]) -> None:
        """Log a point of a curve, unless an attempt that this one continues has logged it."""
        if not any((name, point["step"]) in self._logged for name in point):
            self._attempt(lambda: client.log_points(self._client, self.run_id, [point]))

    def finish(self, status: str) -> None:
        self._attempt(lambda: self._client.set_terminated(self.run_id, status))


@contextmanager
def run(params: Params, model: Path, enabled: bool = True, run_id: str | None = None) -> Iterator[LiveRun]:
    """Log a training, and how it ends. The run of an earlier training of the same model that was killed ends as KILLED.

    model: the folder that the model will be in. enabled: whether this process logs; with several processes, only rank 0
    does. run_id: of a run to continue.
    """
    live = LiveRun(params, model, enabled, run_id)
    try:
        yield live
    except BaseException as error:
        live.finish("KILLED" if isinstance(error, Stopped) else "FAILED")
        raise
    live.finish("FINISHED")
