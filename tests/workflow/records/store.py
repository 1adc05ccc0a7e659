"""A store of MLflow with one result of the DAG, which tests change."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import spacy

from tests.conftest import ROOT
from workflow.engine import dag, params
from workflow.records.tracking import client, live, registry, results, view
from workflow.records.tracking.results import COMPLETE, PARENT, RESULT

SETTINGS = params.load(ROOT / "params.yaml").model_dump()
STAGES = dag.load(ROOT)
CHAIN = dag.chain(STAGES["evaluate@base"], STAGES)
LABELS = {"NEG": 0.25, "POS": 0.75}


class Store:
    """A store with MLflow's client, and one result of the DAG, which tests change."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.uri = folder, f"sqlite:///{folder}/mlflow.db"
        self.settings = json.loads(json.dumps(SETTINGS))
        self.f1, self.accuracy, self.rows, self.result, self.training = LABELS, 0.5, "rows", "result", "1"
        self.live: str | None = None
        self.verdict = ""
        (folder / "model").mkdir(exist_ok=True)
        spacy.blank("en").to_disk(folder / "model/pipeline")
        for name, curve in {"train": {"loss": 1.0}, "dev": {"dev_loss": 1.0, "dev_accuracy": 0.5}}.items():
            (folder / f"model/{name}_curve.json").write_text(json.dumps([{"step": 1, **curve}]))
        (folder / "evaluation").mkdir(exist_ok=True)
        for name in ("confusion.png", "worst.json"):
            (folder / "evaluation" / name).write_text("{}")

    @property
    def client(self) -> Any:
        return client.connect()

    def receipts(self) -> dict[str, dict[str, Any]]:
        receipt = {
            "started": "2026-01-01T00:00:00+00:00", "seconds": 1.0, "kwh": 1e-3, "kwh_low": 1e-3, "kwh_high": 1e-3,
            "grid_g_per_kwh": 400.0, "method": "RAPL", "host": "here", "git_commit": "none", "params": self.settings,
            "deps": {}, "mlflow_run": self.live, "steps": 1, "steps_planned": 1,
        }  # fmt: skip
        new = {"finetune@base": self.training, "evaluate@base": self.training}
        return {
            stage: {**receipt, "run_id": f"{stage} {new.get(stage, 1)}", "outs": {f"data/sentences/{stage}": "0" * 64}}
            for stage in CHAIN
        }

    def record(self) -> tuple[str, bool]:
        scores = {f"{name}{end}": self.accuracy for name in ("accuracy", "macro_f1") for end in ("", "_low", "_high")}
        split = {**scores, "documents": 4, "log_loss": 0.5, "calibration_error": 0.1, "f1": self.f1}
        (self.folder / "evaluation/metrics.json").write_text(json.dumps({"dev": split, "test": split}))
        tags = {RESULT: self.result, registry.DEV_ROWS: self.rows, "data.sha256": "data"}
        receipts = self.receipts()
        mine = {receipt["run_id"] for receipt in receipts.values()}
        folders = self.folder / "model", self.folder / "evaluation"
        return results.record(self.settings, tags, self.verdict, receipts, mine, *folders)

    def train(self) -> str:
        """As the stage finetune does."""
        with live.run(self.settings, self.folder / "model") as run:
            run.log({"step": 1, "loss": 1.0})
        self.live = run.run_id
        return self.live

    def experiment(self) -> Any:
        return self.client.get_experiment_by_name(self.settings["tracking"]["experiment"])

    def runs(self) -> tuple[list[Any], list[Any]]:
        """The runs of results, and their stages'."""
        everything = self.client.search_runs([self.experiment().experiment_id])
        parents = [run for run in everything if PARENT not in run.data.tags]
        return parents, [run for run in everything if PARENT in run.data.tags]

    def versions(self) -> list[Any]:
        return self.client.search_model_versions(f"name = 'en_{self.settings['package']['name']}'")

    def best(self) -> str:
        """The run of the version with the alias."""
        return self.client.get_model_version_by_alias(f"en_{self.settings['package']['name']}", registry.ALIAS).run_id

    def purge(self) -> None:
        """As people do to what they have deleted."""
        subprocess.run(
            [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", self.uri, "--older-than", "0d"],
            check=True, capture_output=True, env={**os.environ, "MLFLOW_TRACKING_URI": self.uri},
        )  # fmt: skip

    def assert_right(self, n_results: int = 1) -> str:
        """The next call completes the record, and the one after it changes nothing. RETURNS: the result's run id."""
        run_id, _ = self.record()
        assert self.record() == (run_id, False)
        parents, children = self.runs()
        assert len(parents) == n_results and all(COMPLETE in run.data.tags for run in parents)
        run = self.client.get_run(run_id)
        assert run.info.status == "FINISHED" and run.info.lifecycle_stage == "active"
        assert run.info.end_time == 1767225601000, "the end is that of the training"
        assert run.data.metrics["test/accuracy"] == self.accuracy
        stages = [child for child in children if child.data.tags[PARENT] == run_id]
        assert sorted(child.info.run_name.removesuffix(" (reused)") for child in stages) == sorted(CHAIN)
        names = {Path(file.path).name for file in self.client.list_artifacts(run_id, "evaluation")}
        assert names == {path.name for path in (self.folder / "evaluation").iterdir()}
        assert any(registry._has_files(version) for version in self.versions() if version.run_id == run_id)
        assert self.best()
        assert view.page(self.settings["tracking"]["experiment"]).endswith(
            "viewStateShareKey=results&compareRunsMode=CHART"
        )
        return run_id
