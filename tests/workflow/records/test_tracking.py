"""Runs in MLflow on a real server: results, their stages, what was reused; parallel jobs; a server that stops."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tests.workflow.daemons import free_port
from tests.workflow.mlflow_server import Server
from workflow.records.tracking.results import COMPUTED, PARENT


def client(uri: str):
    from mlflow import MlflowClient

    return MlflowClient(uri, registry_uri=uri)


def runs(uri: str, experiment: str = "rootstock") -> tuple[list, dict[str, list]]:
    """Parent runs, oldest first, and the child runs of each."""
    all_runs = client(uri).search_runs([client(uri).get_experiment_by_name(experiment).experiment_id])
    children: dict[str, list] = {}
    for run in reversed(all_runs):
        children.setdefault(run.data.tags.get(PARENT, ""), []).append(run)
    return children.pop("", []), children


@pytest.fixture(scope="module")
def recorded(finished, server, tmp_path_factory):
    """A project with two results on the server: the second with another fine-tuning."""
    project = finished.copy(tmp_path_factory.mktemp("tracking") / "project")
    project.tracking_uri = server.uri
    project.first = project.module("records.ledger").stdout
    project.set(**{"finetune.epochs": 2})
    project.call("dvc", "repro", "compare")
    project.module("records.ledger")
    return project


def test_each_result_has_a_run_and_each_stage_a_child_run(recorded, server):
    parents, children = runs(server.uri)
    assert len(parents) == 2 and all(run.info.status == "FINISHED" for run in parents)
    assert parents[0].info.run_id in recorded.first
    first = children[parents[0].info.run_id]
    stages = "download_weights sentencize@train sentencize@dev sentencize@test wordpiece@train wordpiece@dev wordpiece@test encode finetune@base evaluate@base"
    assert sorted(run.info.run_name for run in first) == sorted(stages.split())
    assert {run.data.tags["origin"] for run in first} == {COMPUTED}
    for name in ("energy/wh", "range/energy_wh_low", "range/energy_wh_high", "energy/co2_g", "energy/seconds"):
        total = sum(run.data.metrics[name] for run in first)
        assert parents[0].data.metrics[name] == pytest.approx(total, abs=1e-8) and total > 0
    for run in first:
        assert run.info.end_time - run.info.start_time == pytest.approx(
            1000 * run.data.metrics["energy/seconds"], abs=2
        )
    [finetune] = [run for run in first if run.info.run_name == "finetune@base"]
    assert finetune.data.params["finetune.epochs"] == "1" and "evaluate.resamples" not in finetune.data.params


def test_a_stage_that_did_not_run_again_is_recorded_as_reused(recorded, server):
    parents, children = runs(server.uri)
    second = {run.info.run_name: run for run in children[parents[1].info.run_id]}
    computed = {name for name, run in second.items() if run.data.tags["origin"] == COMPUTED}
    assert computed == {"finetune@base", "evaluate@base"}
    assert second["wordpiece@train (reused)"].data.tags["origin"] == "reused: an earlier run's"
    reused = sum(run.data.metrics["energy/wh"] for name, run in second.items() if name not in computed)
    assert parents[1].data.metrics["energy/wh_reused"] == pytest.approx(reused, abs=1e-8)
    assert parents[0].data.metrics["energy/wh_reused"] == 0


def test_the_parent_run_has_digests_commit_and_method(recorded, server):
    parents, _ = runs(server.uri)
    tags = parents[1].data.tags
    for name in ("data.sha256", "weights.sha256", "dvc.lock.sha256", "rootstock.result"):
        assert re.fullmatch("[0-9a-f]{64}", tags[name]), name
    weights = json.loads((recorded.folder / "data/weights/weights.json").read_text())
    assert tags["weights.sha256"] == weights["sha256"]["model.safetensors"]
    assert tags["data.sha256"] == parents[0].data.tags["data.sha256"]
    assert tags["dvc.lock.sha256"] != parents[0].data.tags["dvc.lock.sha256"]
    assert tags["mlflow.source.git.commit"] and tags["energy.method"] and tags["training"] == "in this clone"
    contexts = {i.tags[0].value: i.dataset for i in parents[1].inputs.dataset_inputs}
    assert set(contexts) == {"training", "validation", "testing"} and contexts["training"].name == "few train"


def test_the_version_that_is_best_on_dev_has_the_alias(recorded, server):
    parents, _ = runs(server.uri)
    best = min(parents, key=lambda run: (-run.data.metrics["dev/accuracy"], run.data.metrics["dev/log_loss"]))
    registry = client(server.uri)
    assert len(registry.search_model_versions("name = 'en_sample_sentiment'")) == 2
    assert registry.get_model_version_by_alias("en_sample_sentiment", "best").run_id == best.info.run_id
    assert "highest accuracy on dev" in registry.get_registered_model("en_sample_sentiment").description


@pytest.mark.slow
def test_the_registered_model_predicts(recorded, server):
    """The newest version is the pipeline that was evaluated."""
    predicted = json.loads((recorded.folder / "data/evaluation/base/test.jsonl").read_text().splitlines()[0])
    code = (
        "import json, sys, mlflow, pandas; model = mlflow.pyfunc.load_model(sys.argv[1]); "
        "print(json.dumps(model.predict(pandas.DataFrame({'text': [sys.argv[2]]}))[0]['scores']))"
    )
    version = client(server.uri).search_model_versions(
        "name = 'en_sample_sentiment'", order_by=["version_number DESC"]
    )[0]
    done = recorded.call(
        sys.executable, "-c", code, f"models:/en_sample_sentiment/{version.version}", predicted["text"]
    )
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(predicted["scores"], abs=1e-5)


@pytest.mark.slow
def test_mlflow_serves_the_registered_model(recorded, server, tmp_path):
    """As docs/predict.md says, without an environment of its own."""
    lines = (recorded.folder / "data/evaluation/base/test.jsonl").read_text().splitlines()[:3]
    predicted = [json.loads(line) for line in lines]
    newest = client(server.uri).search_model_versions("name = 'en_sample_sentiment'", order_by=["version_number DESC"])[
        0
    ]
    port = free_port()
    command = [
        "mlflow",
        "models",
        "serve",
        "--env-manager",
        "local",
        "--model-uri",
        f"models:/{newest.name}/{newest.version}",
    ]
    with (tmp_path / "log").open("w") as log:
        serving = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)], cwd=recorded.folder, stdout=log, stderr=log,
            env=recorded.environment(), start_new_session=True,
        )  # fmt: skip
        try:
            body = {"dataframe_records": [{"text": row["text"]} for row in predicted]}
            answer = ask(f"http://127.0.0.1:{port}/invocations", body, serving)
        finally:
            os.killpg(serving.pid, signal.SIGKILL)
            serving.wait()
    assert [row["predicted"] for row in answer["predictions"]] == [row["predicted"][0] for row in predicted]
    for row, expected in zip(answer["predictions"], predicted, strict=True):
        assert row["scores"] == pytest.approx(expected["scores"], abs=1e-5)


def ask(url: str, body: dict, serving: subprocess.Popen) -> dict:
    """What a server answers, when it has started."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    for _ in range(600):
        assert serving.poll() is None, "it has ended"
        with contextlib.suppress(urllib.error.URLError):
            return json.load(urllib.request.urlopen(request))
        time.sleep(0.2)
    raise AssertionError("it does not answer")


def test_running_the_ledger_again_changes_nothing(recorded, server):
    before = runs(server.uri)
    assert "nothing new" in recorded.module("records.ledger").stdout
    assert [run.info.run_id for run in runs(server.uri)[0]] == [run.info.run_id for run in before[0]]
    assert {p: len(c) for p, c in runs(server.uri)[1].items()} == {p: len(c) for p, c in before[1].items()}


def test_an_interrupted_record_is_completed(recorded, server):
    """As if the ledger had been interrupted between two steps."""
    from workflow.records.tracking.results import COMPLETE, RECEIPT

    parents, children = runs(server.uri)
    last = parents[1].info.run_id
    client(server.uri).delete_tag(last, COMPLETE)
    client(server.uri).delete_tag(children[last][0].info.run_id, COMPLETE)
    client(server.uri).delete_run(children[last][1].info.run_id)
    assert last in recorded.module("records.ledger").stdout
    again, completed = runs(server.uri)
    assert [run.info.run_id for run in again] == [run.info.run_id for run in parents]
    receipts = [run.data.tags[RECEIPT] for run in completed[last]]
    assert len(receipts) == len(set(receipts)) == 10 and all(COMPLETE in run.data.tags for run in completed[last])
    assert len(client(server.uri).search_model_versions("name = 'en_sample_sentiment'")) == 2


def test_results_of_another_clone_are_recorded_as_reused(finished, tmp_path):
    import shutil

    other = finished.copy(tmp_path / "other")
    shutil.rmtree(other.folder / "data/ledger")  # as in another clone, after `dvc pull`
    other.module("records.ledger")
    [parent], children = runs(f"sqlite:///{other.folder}/mlflow.db")
    assert parent.data.tags["training"] == "reused"
    origins = {run.data.tags["origin"] for run in children[parent.info.run_id]}
    assert origins == {"reused: computed by others"}
    assert parent.data.metrics["energy/wh_reused"] == pytest.approx(parent.data.metrics["energy/wh"])


def test_results_are_recorded_without_the_view(finished, tmp_path, monkeypatch, capsys):
    """If MLflow rejects the tag that stores the view, the link leads to its default table."""
    from workflow.records.tracking import client, view

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(view, "TAG", "a name; that MLflow rejects")
    connection = client.connect()
    experiment = client.experiment_id(connection, "rootstock")
    view.share(connection, experiment)
    assert "MLflow: the view 'results' was not stored (" in capsys.readouterr().err
    assert view.page("rootstock").endswith(f"/experiments/{experiment}/runs")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    view.share(connection, experiment)
    assert view.page("rootstock").endswith("runs?viewStateShareKey=results&compareRunsMode=CHART")


JOB = """
import sys
from pathlib import Path
from workflow.engine import params
from workflow.records.tracking import live
settings = params.load().model_dump()
settings["seed"], settings["tracking"]["experiment"] = int(sys.argv[1]), "at_once"
with live.run(settings, Path("data/model", sys.argv[1])) as run:
    for step in range(20):
        run.log({"step": step, "loss": 1 / (1 + step)})
"""


@pytest.mark.slow
@pytest.mark.parametrize("store", ["file", "server"])
def test_parallel_jobs_log_complete_runs(store, finished, server, tmp_path):
    """In a new store, they create one experiment."""
    project = finished.copy(tmp_path / "project")
    uri = server.uri if store == "server" else f"sqlite:///{project.folder}/mlflow.db"
    job = ["env", f"MLFLOW_TRACKING_URI={uri}", f"PYTHONPATH={project.folder}", sys.executable, "-c", JOB]
    jobs = [
        subprocess.Popen([*job, str(seed)], cwd=project.folder, stderr=subprocess.PIPE, text=True) for seed in range(4)
    ]
    for process in jobs:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and "not logging" not in errors, errors
    parents, _ = runs(uri, "at_once")
    assert sorted(run.data.params["seed"] for run in parents) == ["0", "1", "2", "3"]
    for run in parents:
        assert len(client(uri).get_metric_history(run.info.run_id, "train/loss")) == 20
        assert run.info.status == "FINISHED"


@pytest.mark.slow
def test_a_run_is_completed_after_the_server_was_down(finished, tmp_path):
    """Training continues without the server. When it is back, the ledger completes the same run."""
    project = finished.copy(tmp_path / "project")
    (tmp_path / "mlflow").mkdir()
    with Server(tmp_path / "mlflow") as server:
        project.tracking_uri = server.uri
        curves = [json.loads(path.read_text()) for path in (project.folder / "data/model/base").glob("*_curve.json")]
        code = f"""
import sys
from pathlib import Path
from workflow.engine import params
from workflow.records.tracking import live
with live.run(params.load().model_dump(), Path("data/model/base")) as run:
    for number, point in enumerate({[point for curve in curves for point in curve]}):
        if number == 2:
            print(run.run_id, flush=True)
            sys.stdin.readline()
        run.log(point)
print("training has finished")
"""
        env = ["env", f"MLFLOW_TRACKING_URI={server.uri}", f"PYTHONPATH={project.folder}"]
        training = subprocess.Popen(
            [*env, sys.executable, "-c", code],
            cwd=project.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        run_id = training.stdout.readline().strip()
        run = client(server.uri).get_run(run_id)
        assert run.info.status == "RUNNING" and any(n.startswith("train/") for n in run.data.metrics)
        server.stop()
        output, errors = training.communicate("\n", timeout=60)
        assert "training has finished" in output and errors.count("not logging while training") == 1

        receipt = project.folder / "data/receipts/finetune@base.json"
        content = {**json.loads(receipt.read_text()), "mlflow_run": run_id}
        receipt.unlink()  # it may be a link into the cache
        receipt.write_text(json.dumps(content))
        ledger = ["env", "MLFLOW_HTTP_REQUEST_MAX_RETRIES=0", "python", "-m", "workflow.records.ledger"]
        done = project.call(*ledger, check=False)
        assert done.returncode == 1 and f"ledger: error: MLflow at {server.uri}" in done.stderr
        server.start()
        project.module("records.ledger")
        [parent], children = runs(server.uri)
        assert parent.info.run_id == run_id and len(children[run_id]) == 10
        metrics = ("loss", "dev_loss") if "loss" in curves[0][0] else ("dev_loss", "loss")
        for curve, metric in zip(curves, metrics, strict=True):
            logged = client(server.uri).get_metric_history(run_id, f"train/{metric}")
            assert [point.step for point in logged] == [point["step"] for point in curve]


@pytest.mark.slow
def test_training_without_a_server_is_recorded_later(finished, tmp_path):
    """The real stage, with an unreachable server: it trains as usual, and the ledger logs everything later."""
    project = finished.copy(tmp_path / "project")
    project.tracking_uri = "http://127.0.0.1:9"
    assert "not logging while training" in project.stage("finetune@base").stderr
    project.tracking_uri = None
    project.module("records.ledger")
    [parent], _ = runs(f"sqlite:///{project.folder}/mlflow.db")
    assert parent.data.tags["training"] == "in this clone" and "test/accuracy" in parent.data.metrics
