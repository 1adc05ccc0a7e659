"""Results and the run cache over SSH and S3: a clone need not compute what another has pushed."""

import re
import shutil

import pytest

from tests.conftest import ROOT
from tests.workflow.project import Project, shorten, small
from tests.workflow.remotes import S3, Ssh

pytestmark = [
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def project(tiny, tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("remotes"), **small(tiny, **{"data.folder": "few"}))
    shorten(project, ROOT / "data/sample", folder="few", train=32, dev=16, test=16)
    assert "Running stage" in project.call("dvc", "repro").stdout
    return project


@pytest.fixture(scope="module", params=[Ssh, S3], ids=lambda kind: kind.name)
def remote(request, project, tmp_path_factory):
    """A remote to which `project` has pushed its results. Its URL is in Git, its secrets are not."""
    if reason := request.param.skip_reason():
        pytest.skip(reason)
    with request.param(tmp_path_factory.mktemp(request.param.name)) as remote:
        project.call("dvc", "remote", "add", "--default", remote.name, remote.url)
        configure(project, remote.name, remote.settings)
        configure(project, remote.name, remote.secrets, "--local")
        project.call("dvc", "push", "--run-cache")
        project.commit()
        yield remote


def configure(project: Project, name: str, settings: dict[str, str], *options: str) -> None:
    for key, value in settings.items():
        project.call("dvc", "remote", "modify", *options, name, key, value)


def receipts(project: Project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.folder / "data/receipts").glob("*.json")}


def test_a_fresh_clone_computes_and_downloads_nothing(project, remote, tmp_path):
    other = project.clone(tmp_path / "b")
    in_git = (other.folder / ".dvc/config").read_text()
    assert remote.url in in_git and not any(secret in in_git for secret in remote.secrets.values())
    assert other.call("dvc", "pull", "--run-cache", check=False).returncode != 0, "the remote must require its secrets"
    configure(other, remote.name, remote.secrets, "--local")
    other.call("dvc", "pull", "--run-cache")

    output = other.call("make", "--old-file=.venv/.ready", "repro").stdout  # in the environment that runs the tests
    assert "Data and pipelines are up to date." in output and "recorded run" in output and "Running stage" not in output
    assert receipts(other) == receipts(project)

    (other.folder / "dvc.lock").unlink()  # now only the run cache has the outs of the stages
    shutil.rmtree(other.folder / "data/model")
    restored = other.call("dvc", "repro").stdout
    assert "Running stage" not in restored
    assert len(re.findall("is cached - skipping run", restored)) == len(receipts(project)), "from the run cache"
    assert receipts(other) == receipts(project)
