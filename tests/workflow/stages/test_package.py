"""The wheels and all their dependencies, installed from the package index as a user would: slow."""

import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.workflow.project import STAGES, Project, shorten, small

SCRIPT = """
import spacy, rootstock
nlp = spacy.load("en_sample_sentiment")
assert "site-packages" in rootstock.__file__, rootstock.__file__
print(sum(nlp("Not bad at all.").cats.values()))
"""


@pytest.mark.slow
@pytest.mark.skipif("not config.getoption('slow')", reason="downloads every dependency: run pytest --slow")
def test_wheels_work_in_a_clean_environment(tiny, tmp_path):
    project = Project(tmp_path / "project", **small(tiny, **{"data.folder": "data/few"}))
    shorten(project, ROOT / "data/sample", train=20, dev=8, test=8)
    for stage in STAGES:
        project.stage(stage)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "clean"], check=True)
    python = tmp_path / "clean/bin/python"
    wheels = sorted((tmp_path / "project/data/package").glob("*.whl"))
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "requirements.lock", *wheels]
    subprocess.run(pip, check=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([python, "-c", SCRIPT], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1, abs=1e-5)
