"""Servers that the project starts listen on the loopback interface only, where no other machine reaches them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.workflow.daemons import free_port, listens


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def addresses(pid: int) -> set[str]:
    """The addresses on which a process and its descendants listen."""
    connections = [connection for process in family(pid) for connection in process.net_connections("inet")]
    return {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_ui(tmp_path):
    """Nor does its command line, which all users of the machine see, have the store's URL with its password."""
    port = free_port()
    env = {"MLFLOW_PORT": str(port), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    ui = subprocess.Popen(
        ["make", "-f", ROOT / "Makefile", "-o", ".venv/.ready", "ui"],
        cwd=tmp_path, env={**os.environ, **env, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        end = time.monotonic() + 90
        while not listens(port):
            assert ui.poll() is None and time.monotonic() < end
            time.sleep(0.2)
        assert addresses(ui.pid) == {"127.0.0.1"}
        assert not any(
            env["MLFLOW_TRACKING_URI"] in argument for process in family(ui.pid) for argument in process.cmdline()
        )
    finally:
        os.killpg(ui.pid, signal.SIGTERM)
        ui.wait(30)
