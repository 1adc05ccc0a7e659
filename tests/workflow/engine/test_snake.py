"""The DAG under Snakemake: the same stages, and the same opinion as DVC's on what has changed."""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.workflow.project import STAGES, Project, shorten, small
from workflow.engine import dag

PROFILE = ["snakemake", "--profile", "workflow/profiles/default"]


@pytest.fixture(scope="module")
def project(tiny, tmp_path_factory) -> Project:
    """Snakemake has run the DAG; DVC has taken the results over and pushed them; git has it all."""
    folder = tmp_path_factory.mktemp("snake")
    project = Project(folder / "a", **small(tiny, **{"data.folder": "few", "package.name": "tiny_one"}))
    shorten(project, ROOT / "data/sample", folder="few", train=32, dev=16, test=16)
    project.log = project.call(*PROFILE).stderr
    project.call("dvc", "commit", "--force")
    project.call("dvc", "remote", "add", "--default", "store", str(folder / "store"))
    project.call("dvc", "push", "--run-cache")
    project.commit()
    return project


def clone(project: Project, folder: Path) -> Project:
    """What somebody else has after `dvc pull`."""
    other = project.clone(folder)
    other.call("dvc", "pull", "--run-cache")
    return other


def by_snakemake(project: Project) -> set[str]:
    """The stages that it would start first; what follows from them is left out."""
    shown = project.call(*PROFILE, "--dry-run").stdout
    if "Nothing to be done" in shown:
        return set()
    [changed] = re.findall(r"updated input files:\n\s+(.*)", shown)
    return {name.replace("_", "@", 1) if name not in STAGES else name for name in changed.split(", ")}


def by_dvc(project: Project) -> set[str]:
    return set(re.findall(r"^([\w@]+):$", project.call("dvc", "status").stdout, re.MULTILINE))


def test_it_runs_every_stage_and_dvc_agrees(project):
    assert "14 of 14 steps (100%) done" in project.log
    assert by_dvc(project) == by_snakemake(project) == set()
    again = project.call("dvc", "repro").stdout
    assert "Data and pipelines are up to date." in again and "Running" not in again
    assert "nothing new" in project.module("records.ledger").stdout, "onsuccess has recorded the run"


def test_a_fresh_clone_computes_and_downloads_nothing(project, tmp_path):
    """Somebody else's results, by their receipts; a fork that changes fine-tuning computes that and what follows."""
    other = clone(project, tmp_path / "b")
    assert "Running" not in other.call("dvc", "repro").stdout
    receipts = [sorted((p.folder / "data/receipts").glob("*.json")) for p in (project, other)]
    assert [path.read_bytes() for path in receipts[0]] == [path.read_bytes() for path in receipts[1]]
    assert "recorded run" in other.module("records.ledger").stdout
    for out in [out for stage in STAGES.values() for out in stage.outs if out.startswith("data/sentences")]:
        shutil.rmtree(other.folder / out)
    restored = other.call("dvc", "repro").stdout
    assert "Running" not in restored, "the run cache has come along"
    other.set(**{"finetune.epochs": 2})
    ran = re.findall(r"Running stage '(.*)'", other.call("dvc", "repro").stdout)
    assert ran == ["finetune@base", "evaluate@base", "compare", "package"]


CHANGES = {
    "nothing": ({}, set()),
    "fine-tuning": ({"finetune.epochs": 2}, {"finetune@base"}),
    "evaluation": ({"evaluate.resamples": 51}, {"evaluate@base"}),
    "a point more": ({"sweep": {"base": {}, "hot": {"seed": 1}}}, None),
}


@pytest.mark.parametrize(("changes", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_both_notice_a_change_of_params_in_a_fresh_clone(project, tmp_path, changes, expected):
    other = clone(project, tmp_path / "b")
    other.set(**changes)
    if expected is not None:
        assert by_snakemake(other) == by_dvc(other) == expected
    else:
        shown = other.call(*PROFILE, "--dry-run").stdout
        assert re.search(r"^finetune_hot +1$", shown, re.MULTILINE)
        assert not re.search(r"^(finetune_base|wordpiece_\w+) ", shown, re.MULTILINE)


def test_both_notice_a_change_of_code_in_a_fresh_clone(project, tmp_path):
    other = clone(project, tmp_path / "b")
    module = other.folder / "workflow/stages/compare.py"
    module.write_text(module.read_text() + "\n# changed\n")
    assert by_snakemake(other) == by_dvc(other) == {"compare"}


def test_a_change_after_a_run_is_noticed_and_taken_back(project):
    project.set(**{"finetune.dropout": 0.2})
    assert by_snakemake(project) == by_dvc(project) == {"finetune@base"}
    project.set(**{"finetune.dropout": 0.1})
    assert by_dvc(project) == set()


def test_bad_params_stop_it_with_one_line(project, tmp_path):
    other = clone(project, tmp_path / "b")
    other.set(sweep={"base": {"epochz": 3}})
    done = other.call(*PROFILE, "--dry-run", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: params.yaml: unknown key sweep.base.epochz")
    assert "Traceback" not in done.stderr


def test_lint_graph_and_report(project, tmp_path):
    assert "good condition" in project.call("snakemake", "--lint").stderr
    graph = project.call("snakemake", "--dag").stdout
    assert all(f'label = "{name.replace("@", "_")}"' in graph for name in STAGES)
    project.call("snakemake", "--report", str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size > 100_000


def test_resources_are_those_of_dvc_yaml(project):
    shown = project.call(*PROFILE, "--dry-run", "--forceall").stdout
    for name, stage in dag.load(project.folder).items():
        block = shown.split(f"rule {name.replace('@', '_')}:")[1].split("rule ")[0]
        for resource, value in stage.meta["resources"].items():
            if resource != "cpus":
                assert f"{resource}={value}" in block
