"""MLflow when it cannot be reached, is slow, locked or full; and passwords, which are printed and recorded nowhere."""

import base64
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import ROOT
from tests.workflow.mlflow_server import Gate
from tests.workflow.records.store import Store
from workflow.engine.errors import Problem
from workflow.records.tracking import client, results, view

USER, PASSWORD = "some one", "S3cr3t/@:pass"
ENVIRONMENT = {
    "MLFLOW_TRACKING_TOKEN": "S3cr3t-token", "AWS_ACCESS_KEY_ID": "S3cr3t-id", "AWS_SECRET_ACCESS_KEY": "S3cr3t-key",
}  # fmt: skip


def assert_no_secret(text: bytes, where: object) -> None:
    for secret in ("S3cr3t", quote(PASSWORD, safe=""), base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()):
        assert secret.encode() not in text, f"{secret} in {where}"


def assert_no_secret_below(*folders: Path) -> None:
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert_no_secret(path.read_bytes(), path)


def hosted(port: int, password: str = PASSWORD) -> str:
    return f"http://{quote(USER)}:{quote(password, safe='')}@127.0.0.1:{port}"


def test_a_password_in_the_servers_url_is_used_and_left_nowhere(store, server, monkeypatch, capfd):
    for name, value in {**ENVIRONMENT, "MLFLOW_TRACKING_USERNAME": "", "MLFLOW_TRACKING_PASSWORD": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store.settings["tracking"]["experiment"], store.settings["package"]["name"] = "guarded", "guarded"
    said = []
    with Gate(server.uri, USER, PASSWORD) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", hosted(port))
        live_run = store.train()
        assert store.record() == (live_run, True)
        said.append(view.page("guarded"))
        assert said[0].startswith(f"http://127.0.0.1:{port}/#/experiments/")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", hosted(port, "S3cr3t-wrong"))
        with pytest.raises(Problem, match=f"^MLflow at http://127.0.0.1:{port}: .*401.*a password, please") as found:
            store.record()
        said.append(str(found.value))
        store.train()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", hosted(port))
    with pytest.raises(Problem, match=f"^MLflow at http://127.0.0.1:{port}: .*Connection refused") as found:
        store.record()
    store.train()
    output = capfd.readouterr()
    said += [str(found.value), output.out, output.err]
    assert output.err.count("MLflow: not logging while training") == 2
    for text in said:
        assert_no_secret(text.encode(), text)
    assert_no_secret_below(store.folder, server.folder)


@pytest.mark.parametrize(
    ("uri", "shown"),
    {
        "postgresql://me:S3cr3t@host:5432/db?sslpassword=S3cr3t": "postgresql://host:5432/db",
        "http://me:S3cr3t/with/slash@host/mlflow": "http://host/mlflow",
        "https://S3cr3t@host/a": "https://host/a",
        "sqlite:////home/a@b/mlflow.db": "sqlite:////home/a@b/mlflow.db",
    }.items(),
)
def test_urls_are_shown_without_passwords(monkeypatch, uri, shown):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(Problem) as found, client.errors_as_problems():
        raise OSError(f"cannot connect to {uri}")
    assert str(found.value) == f"MLflow at {shown}: OSError: cannot connect to {shown}"


def test_a_stage_and_the_ledger_leave_no_secret(finished, tmp_path):
    """In no line that they print, and in no file under data/; the ledger does not reach its server."""
    project = finished.copy(tmp_path / "project")
    remote = {"url": "ssh://me:S3cr3t@host/path", "password": "S3cr3t"}
    config = "".join(f"    {key} = {value}\n" for key, value in remote.items())
    (project.folder / ".dvc/config.local").write_text(f"['remote \"store\"']\n{config}")
    env = {**ENVIRONMENT, "MLFLOW_TRACKING_URI": hosted(9), "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    assign = ["env", *(f"{name}={value}" for name, value in env.items())]
    stage = project.call(*assign, "python", "-m", "workflow.stages.compare")
    ledger = project.call(*assign, "python", "-m", "workflow.records.ledger", check=False)
    assert "ledger: error: MLflow at http://127.0.0.1:9: " in ledger.stderr
    for done in (stage, ledger):
        assert_no_secret((done.stdout + done.stderr).encode(), done.args)
    assert_no_secret_below(project.folder / "data")


@pytest.fixture
def silent(monkeypatch) -> str:
    """A server that accepts and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(50)
        uri = f"http://127.0.0.1:{listener.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield uri


def test_nothing_waits_for_a_silent_server(store, silent, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    start = time.monotonic()
    store.train()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("MLflow: not logging while training (API request to")
    with pytest.raises(Problem, match=f"^MLflow at {silent}: .*[Tt]imed? ?out"):
        store.record()
    with pytest.raises(Problem, match=f"^MLflow at {silent}: "):
        results.history("rootstock")
    assert time.monotonic() - start < 20


def test_by_default_the_ledger_waits_two_minutes_at_most(silent, monkeypatch):
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    client.connect()
    attempts = 1 + int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    assert attempts * int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) <= 120


LOCK = """
import sqlite3, sys, time
store = sqlite3.connect("mlflow.db", isolation_level=None)
store.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[1]))
"""


def lock(store: Store, seconds: float) -> subprocess.Popen:
    """Another process that has locked the store."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(seconds)], cwd=store.folder, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "locked\n"
    return process


def test_the_ledger_waits_for_a_store_that_is_locked(store):
    process = lock(store, 2)
    store.assert_right()
    assert process.wait(10) == 0


@pytest.mark.slow
def test_a_store_that_stays_locked_is_one_line(store, capsys):
    process = lock(store, 600)
    store.train()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("MLflow: not logging while training (") and "database is locked" in line
    with pytest.raises(Problem, match=r"^MLflow at sqlite:.*database is locked") as found:
        store.record()
    assert "\n" not in str(found.value)
    process.kill()
    process.wait()
    store.assert_right()


FULL = """
import subprocess
from pathlib import Path
from tests.workflow.records.store import Store
from workflow.engine.errors import Problem
store = Store(Path.cwd())
for options in ("size=16k", "ro"):
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", "mlruns"], check=True)
    try:
        store.record()
    except Problem as problem:
        print("said:", problem)
    subprocess.run(["umount", "mlruns"], check=True)
"""
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
CANNOT_MOUNT = not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode


@pytest.mark.slow
@pytest.mark.skipif(bool(CANNOT_MOUNT), reason="this system lets no user mount a file system: unshare fails")
def test_files_that_cannot_be_stored_are_stored_later(store):
    """The disk of MLflow's files is full, then read-only, then has space again."""
    (store.folder / "mlruns").mkdir()
    done = subprocess.run(
        [*NAMESPACE, sys.executable, "-c", FULL], cwd=store.folder, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": store.uri},
    )  # fmt: skip
    full, read_only = (line for line in done.stdout.splitlines() if line.startswith("said: MLflow at sqlite:"))
    assert "No space left on device" in full and "Read-only file system" in read_only, done.stderr
    store.assert_right()
