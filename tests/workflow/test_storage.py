"""A disk that is full, or cannot be written, on file systems mounted in a namespace of their own; a file lost in the cache."""

import hashlib
import json
import shutil
import subprocess

import pytest

from tests.workflow.project import Project, executed
from workflow.files import digest

NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
CANNOT_MOUNT = not shutil.which("unshare") or subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode
pytestmark = pytest.mark.skipif(
    bool(CANNOT_MOUNT), reason="this system lets no user mount a file system: unshare fails"
)


@pytest.fixture
def project(finished, tmp_path) -> Project:
    project = finished.copy(tmp_path / "project", keep_runs=True)
    project.warm = False  # a warm stage would not see what is mounted here
    return project


def call(project: Project, mount: str, command: str) -> subprocess.CompletedProcess:
    return project.call(*NAMESPACE, "sh", "-c", f"{mount} && exec {command}", check=False)


@pytest.mark.slow
def test_a_full_disk_ends_a_stage_with_one_line(project):
    done = call(
        project, "mount -t tmpfs -o size=16k tmpfs data/wordpieces", "python -m workflow.stages.wordpiece train"
    )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("wordpiece@train: error: ")
    assert done.stderr.splitlines()[-1].endswith(": free some space, or move the project")
    assert not (project.folder / "data/receipts/wordpiece@train.json").exists()


def test_a_corpus_on_a_disk_that_cannot_be_written_is_one_line(project):
    (project.folder / "corpus.txt").write_text("One text.\n")
    project.set(**{"annotate.corpora": {"said": "corpus.txt"}})
    before = (project.folder / "workflow/slices.yaml").read_text()
    done = call(project, "mount -o bind,ro data data", "python -m workflow.partition")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ") and "Read-only file system" in done.stderr
    assert (project.folder / "workflow/slices.yaml").read_text() == before


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_costs_no_training(project):
    (project.folder / "data/checkpoints").mkdir(exist_ok=True)
    project.set(**{"checkpoints.minutes": 1e-9})
    before = json.loads((project.folder / "data/receipts/finetune@base.json").read_text())["outs"]
    done = call(project, "mount -t tmpfs -o size=4m tmpfs data/checkpoints", "python -m workflow.stages.finetune base")
    assert done.returncode == 0, done.stderr
    assert "no checkpoint after step 1: " in done.stderr and "Traceback" not in done.stderr
    assert json.loads((project.folder / "data/receipts/finetune@base.json").read_text())["outs"] == before


@pytest.mark.slow
def test_a_read_only_cache_fails_and_leaves_nothing_wrong(project):
    project.set(**{"evaluate.worst": 3})
    done = call(project, "mount -o bind,ro .dvc/cache .dvc/cache", "dvc repro evaluate@base")
    assert done.returncode != 0 and "Read-only file system" in done.stderr
    project.call("dvc", "repro", "evaluate@base")
    assert len(json.loads((project.folder / "data/evaluation/base/worst.json").read_text())) == 3


@pytest.mark.slow
def test_what_was_removed_from_the_cache_is_computed_again(project):
    """One file of a model, from the cache and from the folder that DVC would restore."""
    model = project.folder / "data/model/base"
    expected, path = digest(model), model / "pipeline/trf_textcat/head.safetensors"
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    [cached] = (project.folder / ".dvc/cache").rglob(f"{md5[:2]}/{md5[2:]}")
    cached.unlink()
    shutil.rmtree(model)
    done = project.call("dvc", "repro", "evaluate@base")
    assert "finetune@base" in executed(done.stdout) and digest(model) == expected
