"""What makes a stage stale: DVC and Snakemake agree with the table in the docs; engine and records do not matter."""

import re
import shutil
from pathlib import Path

import pytest

from docs import generate
from tests.workflow.project import SNAKEMAKE, STAGES, Project, executed, stale_stages
from workflow.engine import dag
from workflow.files import digest


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory) -> Project:
    return finished.copy(tmp_path_factory.mktemp("stale") / "project")


def change(path: Path) -> None:
    """Change a file, or one module in a folder."""
    module = path if path.is_file() else sorted(p for p in path.rglob("*.py") if p.name != "__init__.py")[0]
    comment = "#" if module.suffix in (".py", ".toml") else ""
    module.write_text(module.read_text() + f"{comment}\n")


def test_a_change_of_engine_and_records_makes_nothing_stale(project, tmp_path):
    copy = project.copy(tmp_path / "copy")
    assert stale_stages(copy) == set()
    assert "Nothing to be done" in copy.call(*SNAKEMAKE, "--dry-run").stdout
    modules = [p for folder in ("engine", "records") for p in (copy.folder / "workflow" / folder).rglob("*.py")]
    assert len(modules) > 15
    for module in [*modules, copy.folder / "workflow/records/report.html", copy.folder / "Snakefile"]:
        change(module)
    copy.set(**{"tracking.experiment": "another", "carbon.country": "FRA", "carbon.pue": 1.5})
    assert stale_stages(copy) == set()
    assert "Nothing to be done" in copy.call(*SNAKEMAKE, "--dry-run").stdout


def test_results_do_not_depend_on_engine_and_records(project, tmp_path):
    """Without a tracking server and without a meter, training and evaluation give the same bytes."""
    copy = project.copy(tmp_path / "copy")
    outs = [copy.folder / "data/model/base", copy.folder / "data/evaluation/base"]
    before = [digest(out) for out in outs]
    energy = copy.folder / "workflow/engine/energy.py"
    meter, _, _ = energy.read_text().partition("@contextmanager")
    energy.write_text(meter + "@contextmanager\ndef metered(country, pue, energy):\n    yield\n")
    copy.tracking_uri = "http://127.0.0.1:9"
    for stage, out in zip(("finetune@base", "evaluate@base"), outs, strict=True):
        shutil.rmtree(out)
        done = copy.stage(stage)
        assert ("not logging while training" in done.stderr) == (stage == "finetune@base")
    assert [digest(out) for out in outs] == before


COMPUTE = {"encode", "finetune@base", "evaluate@base"}
WORDPIECE = {"wordpiece@train", "wordpiece@dev", "wordpiece@test"}
SENTENCIZE = {"sentencize@train", "sentencize@dev", "sentencize@test"}
PACKAGE = {"package", "package_weights"}

# For each change, the stages that are stale at once.
CHANGES = {
    "workflow/stages/finetune.py": {"finetune@base"},
    "workflow/corpus/rows.py": SENTENCIZE,
    "workflow/model/scores.py": {"finetune@base", "evaluate@base", "compare"},
    "src/rootstock/encoder": COMPUTE | PACKAGE,
    "src/rootstock/pieces": WORDPIECE | COMPUTE | PACKAGE,
    "src/rootstock/training/distributed.py": {"finetune@base"} | PACKAGE,
    "src/rootstock/classifiers.py": PACKAGE,
    "src/rootstock/components/release.py": PACKAGE,
    "data/few/train.jsonl": SENTENCIZE,
    "finetune.epochs": {"finetune@base"},
    "evaluate.resamples": {"evaluate@base"},
    "data.dev_fraction": SENTENCIZE,
    "torch": COMPUTE,
    "spacy": SENTENCIZE | WORDPIECE | COMPUTE | PACKAGE,
}


@pytest.mark.parametrize("changed", CHANGES)
def test_dvc_agrees_with_the_table(project, tmp_path, changed):
    versions = project.folder / "workflow/versions.yaml"
    path = project.folder / changed
    if path.exists():
        original = {p: p.read_bytes() for p in ([path] if path.is_file() else path.rglob("*.py"))}
        if path.suffix == ".jsonl":
            path.write_text(path.read_text() + '\n{"text": "One more row.", "label": "positive"}\n')
        else:
            change(path)
    elif "." in changed:
        path = project.folder / "params.yaml"
        original = {path: path.read_bytes()}
        project.set(**{changed: {"data.dev_fraction": 0.2}.get(changed, 51)})
    else:
        original = {versions: versions.read_bytes()}
        versions.write_text(re.sub(rf"^({changed}): .*$", r'\1: "99.0"', versions.read_text(), flags=re.MULTILINE))
    try:
        assert stale_stages(project) == CHANGES[changed]
    finally:
        for file, content in original.items():
            file.write_bytes(content)
    assert generate.stale(changed, dag.load(project.folder)) == CHANGES[changed]


def test_only_packages_that_determine_results_are_in_params():
    listed = {package for stage in STAGES.values() for package in stage.params.get("workflow/versions.yaml", {})}
    sciences = {"numpy", "scikit-learn", "scipy"}
    assert listed == sciences | {"spacy", "spacy-alignments", "thinc", "tokenizers", "torch", "transformers"}


def test_snakemake_notices_a_newer_package(project, tmp_path):
    copy = project.copy(tmp_path / "copy")
    assert "Nothing to be done" in copy.call(*SNAKEMAKE, "--dry-run").stdout
    versions = copy.folder / "workflow/versions.yaml"
    versions.write_text(re.sub(r"^torch: .*$", 'torch: "99.0"', versions.read_text(), flags=re.MULTILINE))
    jobs = copy.call(*SNAKEMAKE, "--dry-run").stdout
    assert all(
        re.search(rf"^{stage} +1$", jobs, re.MULTILINE) for stage in ("encode", "finetune_base", "evaluate_base")
    )
    assert not re.search(r"^(sentencize|wordpiece)_", jobs, re.MULTILINE)


def test_a_stage_warns_about_different_versions(project, tmp_path):
    copy = project.copy(tmp_path / "copy")
    versions = copy.folder / "workflow/versions.yaml"
    versions.write_text(re.sub(r"^spacy: .*$", 'spacy: "99.0"', versions.read_text(), flags=re.MULTILINE))
    output = copy.stage("sentencize@test").stderr
    assert re.search(r"^sentencize@test: warning: installed versions .*: spacy [\d.]+ \(expected 99\.0\)\.", output)
    assert "warning" not in project.stage("sentencize@test").stderr


@pytest.mark.slow
def test_a_point_that_is_removed_is_not_compared(project, tmp_path):
    """Its folders are moved, so that the deps are the same as in a clone that pulls."""
    copy = project.copy(tmp_path / "copy")
    copy.set(sweep={"base": {}, "hot": {"learning_rate": 1e-3}})
    assert executed(copy.call("dvc", "repro").stdout) == ["finetune@hot", "evaluate@hot", "compare", "package"]
    assert "hot" in (copy.folder / "data/comparison/points.csv").read_text()
    copy.set(sweep={"base": {}})
    assert (copy.folder / "data/model/hot").is_dir(), "DVC keeps its folder"
    output = copy.call("dvc", "repro").stdout
    assert executed(output) == ["compare"], "the package of this comparison must come from the run cache"
    assert "no stage produces data/model/hot any more: moved to data/retired/model/hot" in output
    assert "hot" not in (copy.folder / "data/comparison/points.csv").read_text()
    assert "recorded run" in copy.module("records.ledger").stdout
    assert stale_stages(copy) == set() and executed(copy.call("dvc", "repro").stdout) == []

    copy.call("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    copy.call("dvc", "push", "--run-cache")
    copy.commit()
    clone = copy.clone(tmp_path / "clone")
    shutil.copytree(copy.folder / "data/few", clone.folder / "data/few", dirs_exist_ok=True)
    clone.call("dvc", "pull", "--run-cache")
    assert executed(clone.call("dvc", "repro").stdout) == []
    assert not (clone.folder / "data/model/hot").exists()
