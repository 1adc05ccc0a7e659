"""One project in which the DAG has run, for all tests that look at results or change them in a copy."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import ROOT
from tests.workflow.project import Project, shorten, small


@pytest.fixture(scope="session")
def finished(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A shortened sample and tiny weights, run by `make repro`'s commands; first.log has what they printed.

    Take a `copy` of it.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(f"{folder}.lock"):  # of several test processes one runs it
        if (folder / "first.log").is_file():
            project = Project.__new__(Project)
            project.folder = folder
            return project
        project = Project(folder, **small(tiny, **{"data.folder": "data/few"}))
        shorten(project, ROOT / "data/sample", train=48, dev=16, test=24)
        printed = project.call("dvc", "repro").stdout + project.module("records.ledger").stdout
        (folder / "first.log").write_text(printed)
        return project
