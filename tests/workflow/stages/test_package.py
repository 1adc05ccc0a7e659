"""Labels in the model card. The wheels and all their dependencies, installed from the package index: slow."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import soak
from tests.conftest import ROOT
from tests.workflow.project import STAGES, Project, shorten, small
from workflow.stages.package import listed, shown

SCRIPT = """
import spacy, rootstock
nlp = spacy.load("en_sample_sentiment")
assert "site-packages" in rootstock.__file__, rootstock.__file__
print(sum(nlp("Not bad at all.").cats.values()))
"""


@pytest.mark.slow
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


LABELS = st.one_of(st.text(min_size=1), st.text('ab," \\\u00a0\u200b\n\tu0', min_size=1, max_size=5))


@soak.fuzz("labels in the card", many=10_000)
@given(st.lists(LABELS, min_size=1, max_size=4), st.lists(LABELS, min_size=1, max_size=4))
def test_other_labels_look_different(one, other):
    """Also if white space is shown as one space, and what cannot be seen not at all."""

    def seen(labels):
        return " ".join("".join(c for c in listed(labels, "one") if c.isprintable() or c.isspace()).split())

    assert (seen(one) == seen(other)) == (one == other)


def test_labels_of_the_card():
    assert listed(["very_good", "bad"], "one") == "2, one per document: very_good, bad"
    assert listed(["A, B", 'say "C"', " D", "E\u200b", "F  G"], "any number") == (
        r'5, any number per document: "A, B", "say \"C\"", " D", "E\u200b", "F\u0020 G"'
    )
    many = listed([f"label {i}" for i in range(5000)], "one")
    assert many.startswith("5000, one per document, the first 20: label 0, label 1, ") and many.endswith(", label 19")
    assert shown("größe 👍") == "größe 👍"
