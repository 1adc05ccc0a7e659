"""Spent and avoided, each counted once; the same figures in the card beside the wheel and in MLflow."""

import json
import re
import shutil
import zipfile

import pytest

from tests.conftest import ROOT
from workflow.engine import dag
from workflow.records import costs

STAGES = dag.load(ROOT)
RECEIPT = {"seconds": 2.0, "kwh": 1e-3, "kwh_low": 5e-4, "kwh_high": 2e-3, "grid_g_per_kwh": 400.0, "method": "RAPL"}


def test_sums_by_the_grid_of_each():
    sums = costs.total([RECEIPT, {**RECEIPT, "grid_g_per_kwh": 100.0}])
    assert sums == pytest.approx(
        {"seconds": 4, "kwh": 2e-3, "kwh_low": 1e-3, "kwh_high": 4e-3, "co2_g": 0.5, "co2_g_low": 0.25, "co2_g_high": 1}
    )


def spent_and_avoided(project) -> tuple[list[str], list[str]]:
    folders = [project.folder / "data/ledger" / name for name in ("spent", "avoided")]
    return tuple(sorted(r["stage"] for r in costs.noted(folder)) for folder in folders)


def test_what_one_computes_is_spent_and_never_avoided(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    assert "avoided" not in project.module("records.ledger").stdout
    assert spent_and_avoided(project) == (sorted(STAGES), [])
    project.set(**{"finetune.epochs": 2})
    project.call("dvc", "repro", "evaluate@base")
    project.set(**{"finetune.epochs": 1})
    project.call("dvc", "repro")  # restored by the run cache: one's own
    project.module("records.ledger")
    assert spent_and_avoided(project) == (sorted([*STAGES, "finetune@base", "evaluate@base"]), [])


def test_what_others_computed_is_avoided_once(finished, tmp_path):
    """Their results are restored; then one stage is computed here, and theirs comes back: nothing counts twice."""
    project = finished.copy(tmp_path / "project")
    shutil.rmtree(project.folder / "data/ledger")
    told = project.module("records.ledger").stdout
    assert spent_and_avoided(project) == ([], sorted(STAGES))
    receipts = [json.loads(path.read_text()) for path in (project.folder / "data/receipts").glob("*.json")]
    avoided = 1000 * sum(receipt["kwh"] for receipt in receipts)
    assert re.search(rf"avoided, at most +[\d.]+ +{avoided:.3f} .* by reusing {len(STAGES)} results", told)
    assert re.search(r"spent here +0\.0 +0\.000 .* in 0 stage runs", told)

    project.set(**{"evaluate.resamples": 51})
    project.call("dvc", "repro", "evaluate@base")
    project.set(**{"evaluate.resamples": 50})
    project.call("dvc", "repro")
    project.module("records.ledger")
    project.module("records.ledger")
    assert spent_and_avoided(project) == (["evaluate@base"], sorted(STAGES))


def test_a_stage_that_fails_is_spent_too(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    (project.folder / "data/few/dev.jsonl").write_text("no JSON")
    assert project.stage("sentencize@dev", check=False).returncode == 1
    [failed] = [r for r in costs.noted(project.folder / "data/ledger/spent") if "failed" in r]
    assert failed["stage"] == "sentencize@dev" and failed["kwh_high"] > 0 and failed["outs"] == {}


def test_the_card_beside_the_wheel_has_the_figures_of_mlflow(finished, tmp_path):
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
    shown = [float(cell) for cell in line.split("|")[2:-1]]
    m = run.data.metrics
    logged = [m["energy/seconds"], m["energy/wh"], m["range/energy_wh_low"], m["range/energy_wh_high"]]
    assert shown == pytest.approx(logged, abs=0.06) and shown[1:] == pytest.approx(logged[1:], abs=6e-4)
    assert f"{m['energy/co2_g']:.3g} g of CO2" in card and run.data.tags["energy.method"] in card
    assert "What it cost" in (project.folder / "data/vectors/MODEL_CARD.md").read_text()
    for wheel in (project.folder / "data/package").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            assert not any(b"What it cost" in archive.read(name) for name in archive.namelist())
    assert "up to date" in project.call("dvc", "status").stdout, "the cards are not DVC's"
