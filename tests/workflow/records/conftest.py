"""Stores and servers of MLflow for the tests of this folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.workflow.mlflow_server import Server
from tests.workflow.records.store import Store


@pytest.fixture(scope="session")
def empty(tmp_path_factory) -> Path:
    """A new SQLite store."""
    folder = tmp_path_factory.mktemp("empty")
    code = f"import mlflow; mlflow.MlflowClient('sqlite:///{folder}/mlflow.db').search_experiments()"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    return folder / "mlflow.db"


@pytest.fixture
def store(empty, tmp_path, monkeypatch) -> Store:
    for name in ("dvc.yaml", "params.yaml", "workflow"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copyfile(empty, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    return Store(tmp_path)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("mlflow")) as server:
        yield server
