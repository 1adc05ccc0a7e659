"""The DAG under Snakemake: it runs the same stages as DVC, and agrees with DVC on what has changed."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.workflow.project import SNAKEMAKE, STAGES, Project, executed, shorten, small, stale_stages
from workflow.engine import dag, snake


@pytest.fixture(scope="module")
def project(tiny, tmp_path_factory) -> Project:
    """Snakemake has run the DAG, DVC has committed and pushed the results, and Git has dvc.lock."""
    folder = tmp_path_factory.mktemp("snake")
    project = Project(folder / "a", **small(tiny, **{"data.folder": "few", "package.name": "tiny_one"}))
    shorten(project, ROOT / "data/sample", folder="few", train=32, dev=16, test=16)
    project.log = project.call(*SNAKEMAKE).stderr
    project.call("dvc", "commit", "--force")
    project.call("dvc", "remote", "add", "--default", "store", str(folder / "store"))
    project.call("dvc", "push", "--run-cache")
    project.commit()
    return project


def clone(project: Project, folder: Path) -> Project:
    """Another user's clone after `dvc pull`."""
    other = project.clone(folder)
    other.call("dvc", "pull", "--run-cache")
    return other


def stale_by_snakemake(project: Project) -> set[str]:
    """The stages whose inputs Snakemake reports as changed; stages that depend on them are not included."""
    output = project.call(*SNAKEMAKE, "--dry-run").stdout
    if "Nothing to be done" in output:
        return set()
    [changed] = re.findall(r"updated input files:\n\s+(.*)", output)
    return {name.replace("_", "@", 1) if name not in STAGES else name for name in changed.split(", ")}


def test_snakemake_runs_every_stage_and_dvc_has_nothing_to_do(project):
    assert "14 of 14 steps (100%) done" in project.log
    assert stale_stages(project) == stale_by_snakemake(project) == set()
    again = project.call("dvc", "repro").stdout
    assert "Data and pipelines are up to date." in again and "Running" not in again
    assert "nothing new" in project.module("records.ledger").stdout, "onsuccess must have recorded the run"


@pytest.mark.slow
def test_a_fresh_clone_computes_and_downloads_nothing(project, tmp_path):
    """The receipts are those of the other clone. After a change of fine-tuning, only it and later stages run."""
    other = clone(project, tmp_path / "b")
    assert "Running" not in other.call("dvc", "repro").stdout
    receipts = [sorted((p.folder / "data/receipts").glob("*.json")) for p in (project, other)]
    assert [path.read_bytes() for path in receipts[0]] == [path.read_bytes() for path in receipts[1]]
    assert "recorded run" in other.module("records.ledger").stdout
    for out in [out for stage in STAGES.values() for out in stage.outs if out.startswith("data/sentences")]:
        shutil.rmtree(other.folder / out)
    restored = other.call("dvc", "repro").stdout
    assert "Running" not in restored, "results are not restored from the run cache"
    other.set(**{"finetune.epochs": 2})
    assert executed(other.call("dvc", "repro", "compare").stdout) == ["finetune@base", "evaluate@base", "compare"]


CHANGES = {
    "nothing": ({}, set()),
    "fine-tuning": ({"finetune.epochs": 2}, {"finetune@base"}),
    "evaluation": ({"evaluate.resamples": 51}, {"evaluate@base"}),
    "another point": ({"sweep": {"base": {}, "hot": {"seed": 1}}}, None),
}


@pytest.mark.parametrize(("changes", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_snakemake_and_dvc_notice_changed_params_in_a_fresh_clone(project, tmp_path, changes, expected):
    other = clone(project, tmp_path / "b")
    other.set(**changes)
    if expected is not None:
        assert stale_by_snakemake(other) == stale_stages(other) == expected
    else:
        output = other.call(*SNAKEMAKE, "--dry-run").stdout
        assert re.search(r"^finetune_hot +1$", output, re.MULTILINE)
        assert not re.search(r"^(finetune_base|wordpiece_\w+) ", output, re.MULTILINE)


def test_snakemake_and_dvc_notice_changed_code_in_a_fresh_clone(project, tmp_path):
    other = clone(project, tmp_path / "b")
    module = other.folder / "workflow/stages/compare.py"
    module.write_text(module.read_text() + "\n# changed\n")
    assert stale_by_snakemake(other) == stale_stages(other) == {"compare"}


def test_a_change_is_noticed_and_can_be_reverted(project):
    project.set(**{"finetune.dropout": 0.2})
    assert stale_by_snakemake(project) == stale_stages(project) == {"finetune@base"}
    project.set(**{"finetune.dropout": 0.1})
    assert stale_stages(project) == stale_by_snakemake(project) == set()


@pytest.mark.parametrize("path", ["workflow/stages/compare.py", "src/rootstock/training/adam.py", "few/test.jsonl"])
def test_a_change_of_a_file_is_noticed_and_can_be_reverted(project, tmp_path, path):
    """In a folder, too, whose time does not change."""
    other = clone(project, tmp_path / "b")
    file = other.folder / path
    content = file.read_bytes()
    file.write_bytes(content + b"\n")
    stale = stale_by_snakemake(other)
    assert stale and stale <= stale_stages(other)
    file.write_bytes(content)
    os.utime(file)
    assert stale_stages(other) == stale_by_snakemake(other) == set()


@pytest.mark.parametrize("link", ["copy", "reflink,copy", "hardlink", "symlink"])
def test_after_dvc_has_restored_results_there_is_nothing_to_do(project, tmp_path, link):
    """Whatever DVC makes of them: Snakemake looks at the times of links, too."""
    other = clone(project, tmp_path / "b")
    cached = {
        path: path.stat().st_mtime_ns for path in (other.folder / ".dvc/cache/files").rglob("*") if path.is_file()
    }
    other.call("dvc", "config", "--local", "cache.type", link)
    other.call("dvc", "checkout", "--relink")
    assert (other.folder / "data/receipts/encode.json").is_symlink() == (link == "symlink")
    assert stale_stages(other) == stale_by_snakemake(other) == set()
    if link == "symlink":
        assert all(path.stat().st_mtime_ns == time for path, time in cached.items()), "the cache was touched"


def test_a_link_into_the_cache_of_another_user_is_replaced_by_a_copy(tmp_path, monkeypatch):
    (tmp_path / "cached").write_text("a receipt")
    receipt = tmp_path / "receipt.json"
    receipt.hardlink_to(tmp_path / "cached")
    utime = os.utime

    def refuse(path, *arguments, **options):
        if Path(path).stat().st_nlink > 1:
            raise PermissionError
        utime(path, *arguments, **options)

    monkeypatch.setattr(os, "utime", refuse)
    snake._touch(str(receipt), 5.0)
    assert receipt.stat().st_mtime == 5 and receipt.read_text() == "a receipt" and receipt.stat().st_nlink == 1


def test_bad_params_stop_snakemake_with_one_line(project, tmp_path):
    other = clone(project, tmp_path / "b")
    other.set(sweep={"base": {"epochz": 3}})
    done = other.call(*SNAKEMAKE, "--dry-run", check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: params.yaml: unknown key sweep.base.epochz")
    assert "Traceback" not in done.stderr


def test_snakemake_can_lint_draw_and_report(project, tmp_path):
    assert "good condition" in project.call("snakemake", "--lint").stderr
    graph = project.call("snakemake", "--dag").stdout
    assert all(f'label = "{name.replace("@", "_")}"' in graph for name in STAGES)
    project.call("snakemake", "--report", str(tmp_path / "report.html"))
    assert (tmp_path / "report.html").stat().st_size > 100_000


def test_jobs_have_the_resources_in_dvc_yaml(project):
    output = project.call(*SNAKEMAKE, "--dry-run", "--forceall").stdout
    for name, stage in dag.load(project.folder).items():
        block = output.split(f"rule {name.replace('@', '_')}:")[1].split("rule ")[0]
        for resource, value in stage.meta["resources"].items():
            if resource != "cpus":
                assert f"{resource}={value}" in block
