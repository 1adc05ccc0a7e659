"""A project in which the DAG has run, shared by all tests that read its results or change a copy of it."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import ROOT
from tests.workflow.project import Project, shorten, small


def pytest_configure(config: pytest.Config) -> None:
    Project.warm = not config.getoption("cold")


@pytest.fixture(scope="session")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The DAG has run on a part of the sample with tiny weights, as in `make repro`; first.log has the output.

    Tests that change something must work on a `copy`.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(f"{folder}.lock"):  # only one of several test processes runs the DAG
        if (folder / "first.log").is_file():
            project = Project.__new__(Project)
            project.folder = folder
            return project
        project = Project(folder, **small(tiny, **{"data.folder": "data/few"}))
        shorten(project, ROOT / "data/sample", train=48, dev=16, test=24)
        output = project.call("dvc", "repro").stdout + project.module("records.ledger").stdout
        (folder / "first.log").write_text(output)
        return project
