"""Two runs at once: in one clone, and in two that share a cache."""

import json
import subprocess

import pytest

from tests.workflow.project import Project
from workflow.files import digest

pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif("not config.getoption('soak')", reason="runs the DAG four times: `make soak` runs this"),
]


def start(project: Project) -> subprocess.Popen:
    return subprocess.Popen(
        ["dvc", "repro", "evaluate@base"], cwd=project.folder, env=project.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def result(project: Project) -> dict[str, str]:
    receipt = json.loads((project.folder / "data/receipts/evaluate@base.json").read_text())
    assert receipt["outs"] == {"data/evaluation/base": digest(project.folder / "data/evaluation/base")}
    return receipt["outs"]


def test_in_one_clone_one_of_them_ends_with_a_line(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.set(**{"finetune.epochs": 3})
    runs = [start(project) for _ in range(2)]
    outputs = [run.communicate()[0] for run in runs]
    assert 0 in [run.returncode for run in runs]
    for run, output in zip(runs, outputs, strict=True):
        assert "Traceback" not in output
        assert run.returncode == 0 or "is busy" in output or "Unable to acquire lock" in output, output
    assert "Data and pipelines are up to date" in project.call("dvc", "repro", "evaluate@base").stdout
    assert result(project)


def test_two_clones_share_a_cache(finished, tmp_path):
    """They compute the same at the same time, and get the same."""
    projects = [finished.copy(tmp_path / name) for name in ("one", "other")]
    for project in projects:
        project.set(**{"finetune.epochs": 3})
        project.call("dvc", "cache", "dir", "--local", str(tmp_path / "cache"))
        project.call("dvc", "config", "--local", "cache.type", "hardlink")
    runs = [start(project) for project in projects]
    for run in runs:
        output = run.communicate()[0]
        assert run.returncode == 0, output
    assert result(projects[0]) == result(projects[1])
