"""No text of params.yaml reaches a shell, under either engine."""

import pytest

from tests.workflow.project import SNAKEMAKE, STAGES, Project, small

COMMANDS = [
    "a; touch X",
    "$(touch X)",
    "`touch X`",
    "a' ; touch X; '",
    'a" ; touch X; "',
    "a\ntouch X\n",
    "a && touch X #",
]


def test_no_command_contains_an_item_or_a_setting():
    """They are in the names of stages and in paths, which no shell sees; the engine names the stage in a variable."""
    assert {stage.cmd for stage in STAGES.values()} == {
        f"python -m workflow.stages.{name.partition('@')[0]}" for name in STAGES
    }


@pytest.mark.parametrize("engine", [["dvc", "repro"], SNAKEMAKE], ids=["DVC", "Snakemake"])
def test_names_and_values_are_not_executed(tiny, tmp_path, engine):
    """A plain `dvc repro` resolves names before any of our code can check them."""
    project = Project(tmp_path / "project", **small(tiny))
    project.set(sweep={name: {} for name in COMMANDS})
    done = project.call(*engine, check=False)
    assert done.returncode != 0 and "sweep" in done.stderr and "Traceback" not in done.stderr
    (project.folder / "a; touch X").mkdir()
    values = {"data.folder": "a; touch X", "weights.source": "path:a; touch X"}
    done = project.set(sweep={"base": {}}, **values) or project.call(*engine, check=False)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("X"))


def test_the_stage_is_found_in_the_variable(tiny, tmp_path):
    """By hand, an argument names the item; DVC, called in a subfolder, puts the path of dvc.yaml before the name."""
    project = Project(tmp_path / "project", **small(tiny))
    project.call("env", "DVC_STAGE=../dvc.yaml:sentencize@dev", "python", "-m", "workflow.stages.sentencize")
    assert (project.folder / "data/receipts/sentencize@dev.json").is_file()
    project.module("stages.sentencize", "test")
    assert (project.folder / "data/receipts/sentencize@test.json").is_file()
