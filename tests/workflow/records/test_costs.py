"""Spent and avoided energy, each counted once; the same figures in the model card and in MLflow."""

import json
import os
import re
import shutil
import zipfile

import pytest

from tests.conftest import ROOT
from workflow.engine import dag
from workflow.engine.attempt import read_records
from workflow.records import costs

STAGES = dag.load(ROOT)
RECEIPT = {"seconds": 2.0, "kwh": 1e-3, "kwh_low": 5e-4, "kwh_high": 2e-3, "grid_g_per_kwh": 400.0, "method": "RAPL"}


def test_co2_uses_the_grid_of_each_receipt():
    sums = costs.total([RECEIPT, {**RECEIPT, "grid_g_per_kwh": 100.0}])
    assert sums == pytest.approx(
        {"seconds": 4, "kwh": 2e-3, "kwh_low": 1e-3, "kwh_high": 4e-3, "co2_g": 0.5, "co2_g_low": 0.25, "co2_g_high": 1}
    )


def spent_and_avoided(project) -> tuple[list[str], list[str]]:
    """The stages with receipts in spent/, and in avoided/."""
    folders = [project.folder / "data/ledger" / name for name in ("spent", "avoided")]
    return tuple(sorted(r["stage"] for r in read_records(folder)) for folder in folders)


@pytest.mark.slow
def test_own_results_are_spent_and_never_avoided(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    assert "avoided" not in project.module("records.ledger").stdout
    assert spent_and_avoided(project) == (sorted(STAGES), [])
    project.set(**{"finetune.epochs": 2})
    project.call("dvc", "repro", "evaluate@base")
    project.set(**{"finetune.epochs": 1})
    project.call("dvc", "repro")  # restored from the run cache: a result of this clone
    project.module("records.ledger")
    assert spent_and_avoided(project) == (sorted([*STAGES, "finetune@base", "evaluate@base"]), [])


@pytest.mark.slow
def test_results_of_another_clone_are_avoided_once(finished, tmp_path):
    """The results are restored, one stage is computed here, and its result is restored again: nothing counts twice."""
    project = finished.copy(tmp_path / "project")
    shutil.rmtree(project.folder / "data/ledger")
    summary = project.module("records.ledger").stdout
    assert spent_and_avoided(project) == ([], sorted(STAGES))
    receipts = [json.loads(path.read_text()) for path in (project.folder / "data/receipts").glob("*.json")]
    avoided = 1000 * sum(receipt["kwh"] for receipt in receipts)
    assert re.search(rf"avoided, at most +[\d.]+ +{avoided:.3f} .* by reusing {len(STAGES)} results", summary)
    assert re.search(r"spent here +0\.0 +0\.000 .* in 0 stage runs", summary)

    project.set(**{"evaluate.resamples": 51})
    project.call("dvc", "repro", "evaluate@base")
    project.set(**{"evaluate.resamples": 50})
    project.call("dvc", "repro")
    project.module("records.ledger")
    project.module("records.ledger")
    assert spent_and_avoided(project) == (["evaluate@base"], sorted(STAGES))


def test_a_failed_stage_counts_as_spent(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    (project.folder / "data/few/dev.jsonl").write_text("no JSON")
    assert project.stage("sentencize@dev", check=False).returncode == 1
    [failed] = [r for r in read_records(project.folder / "data/ledger/spent") if "failed" in r]
    assert failed["stage"] == "sentencize@dev" and failed["kwh_high"] > 0 and "outs" not in failed


@pytest.mark.slow
def test_damaged_records_are_named(finished, tmp_path):
    """Of an attempt: the ledger goes on without it. Of a result: the next `dvc repro` makes the result anew."""
    project = finished.copy(tmp_path / "project")
    attempt = next((project.folder / "data/ledger/spent").iterdir())
    attempt.write_text("")
    done = project.module("records.ledger")
    assert f"{attempt.name}: damaged, so the ledger lacks what this attempt has cost" in done.stderr
    assert f"in {len(STAGES) - 1} stage runs" in done.stdout
    receipt = project.folder / "data/receipts/compare.json"
    before = receipt.stat()
    receipt.chmod(0o644)
    receipt.write_text("x" * before.st_size)
    os.utime(receipt, ns=(before.st_atime_ns, before.st_mtime_ns))
    for module in ("records.ledger", "records.report"):
        done = project.module(module, check=False)
        assert done.returncode == 1 and done.stderr.count("\n") == 1
        assert "error: data/receipts/compare.json: missing or damaged. The next `make repro` makes it" in done.stderr
    project.call("dvc", "repro")
    project.module("records.ledger")


@pytest.mark.slow
def test_a_damaged_wheel_is_noticed_and_made_anew(finished, tmp_path):
    """A byte of it, with the same size and time, which DVC goes by."""
    project = finished.copy(tmp_path / "project")
    [wheel] = (project.folder / "data/package").glob("en_*.whl")
    content, before = wheel.read_bytes(), wheel.stat()
    wheel.chmod(0o644)
    wheel.write_bytes(content[:1000] + bytes([content[1000] ^ 1]) + content[1001:])
    os.utime(wheel, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = project.module("records.ledger", check=False)
    assert done.stderr.startswith("ledger: error: data/package: damaged, or edited, since package wrote it. The next")
    project.call("dvc", "repro")
    assert wheel.read_bytes() == content
    project.module("records.ledger")


@pytest.mark.slow
def test_the_model_card_has_the_same_figures_as_mlflow(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.module("records.ledger")
    from mlflow import MlflowClient

    [run] = [
        run
        for run in MlflowClient(f"sqlite:///{project.folder}/mlflow.db").search_runs(["1"])
        if "mlflow.parentRunId" not in run.data.tags
    ]
    card = (project.folder / "data/package/MODEL_CARD.md").read_text()
    [line] = [line for line in card.splitlines() if line.startswith("| all |")]
    in_card = [float(cell) for cell in line.split("|")[2:-1]]
    m = run.data.metrics
    in_mlflow = [m["energy/seconds"], m["energy/wh"], m["range/energy_wh_low"], m["range/energy_wh_high"]]
    assert in_card == pytest.approx(in_mlflow, abs=0.06) and in_card[1:] == pytest.approx(in_mlflow[1:], abs=6e-4)
    assert f"{m['energy/co2_g']:.3g} g of CO2" in card and run.data.tags["energy.method"] in card
    assert "What it cost" in (project.folder / "data/vectors/MODEL_CARD.md").read_text()
    for wheel in (project.folder / "data/package").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            assert not any(b"What it cost" in archive.read(name) for name in archive.namelist())
    assert "up to date" in project.call("dvc", "status").stdout, "the cards must not be tracked by DVC"
