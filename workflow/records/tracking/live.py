"""The MLflow run of a fine-tuning in progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from . import client
from .client import Params


class LiveRun:
    """Logs curves while training. Training continues if that fails: the ledger logs them later."""

    def __init__(self, params: Params, enabled: bool) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # training must not wait for a server
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        self.run_id: str | None = None
        self._enabled = enabled
        self._attempt(lambda: self._start(params))

    def _start(self, params: Params) -> None:
        self._client, experiment = client.open_experiment(params["tracking"]["experiment"])
        self.run_id = self._client.create_run(experiment, run_name=client.run_name(params)).info.run_id
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
        self._attempt(lambda: client.log_points(self._client, self.run_id, [point]))

    def finish(self, status: str) -> None:
        self._attempt(lambda: self._client.set_terminated(self.run_id, status))


@contextmanager
def run(params: Params, enabled: bool = True) -> Iterator[LiveRun]:
    """enabled: whether this process logs; with several processes, only rank 0 does."""
    live = LiveRun(params, enabled)
    try:
        yield live
    except BaseException:
        live.finish("FAILED")
        raise
    live.finish("FINISHED")
