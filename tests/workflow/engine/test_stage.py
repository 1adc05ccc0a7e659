"""What a stage does around its work."""

import json
from types import SimpleNamespace

import pytest
from codecarbon import OfflineEmissionsTracker

from tests.conftest import ROOT
from workflow.corpus import shards
from workflow.engine import dag, params
from workflow.engine.stage import _execute, _folders

TOY = dag.Stage(
    "toy", "python -m toy", ["code.py"], ["data/toy", "data/receipts/toy.json"], {"params.yaml": {"a": 1}}, {}
)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A function that runs a stage: `run` writes files with these names."""
    settings = params.load(ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text("a")

    def execute(*names, error=None):
        def run(settings, inputs, outputs):
            for name in names:
                (outputs["toy"] / name).write_text("x")
            if error:
                raise error

        _execute(TOY, {"toy": TOY}, run, settings)

    return SimpleNamespace(execute=execute, out=tmp_path / "data/toy", receipts=tmp_path / "data/receipts")


def test_outputs_are_made_anew(toy):
    """With fewer rows than before there are fewer shards."""
    toy.execute("00000.spacy", "00001.spacy")
    toy.execute("00000.spacy")
    assert [path.name for path in shards.files(toy.out)] == ["00000.spacy"]


def test_a_receipt_that_links_into_the_cache_is_replaced(toy, tmp_path):
    toy.execute("a")
    receipt = toy.receipts / "toy.json"
    cached = receipt.rename(tmp_path / "cached")
    before = cached.read_bytes()
    receipt.symlink_to(cached)
    toy.execute("b")
    assert cached.read_bytes() == before and not receipt.is_symlink()


def test_a_failed_stage_leaves_neither_outputs_nor_an_old_receipt(toy):
    toy.execute("a")
    with pytest.raises(ZeroDivisionError):
        toy.execute("a", error=ZeroDivisionError())
    assert not toy.out.exists() and not (toy.receipts / "toy.json").exists()


def test_a_meter_that_fails_costs_no_result(toy, monkeypatch):
    def fail(tracker):
        raise OSError("the meter is broken")

    monkeypatch.setattr(OfflineEmissionsTracker, "stop", fail)
    toy.execute("model")
    assert (toy.out / "model").is_file()
    receipt = json.loads((toy.receipts / "toy.json").read_text())
    assert receipt["method"] == "not measured" and "failed" not in receipt


def test_the_receipt_says_what_the_result_was_made_of(toy):
    toy.execute("a")
    receipt = json.loads((toy.receipts / "toy.json").read_text())
    assert receipt["made_by"] == {"cmd": TOY.cmd, "params": TOY.params}
    assert list(receipt["deps"]) == ["code.py"] and list(receipt["outs"]) == ["data/toy"]


@pytest.mark.parametrize("point", ["dev", "train", "test", "base"])
def test_a_point_may_have_the_name_of_a_split(point):
    deps = ["data/wordpieces/dev", "data/wordpieces/test", f"data/model/{point}", "src/rootstock", "data/features"]
    folders = _folders(dag.Stage(f"evaluate@{point}", "", deps, [], {}, {}), deps)
    for name, path in {
        "wordpieces/dev": deps[0],
        "wordpieces/test": deps[1],
        "model": deps[2],
        "features": deps[4],
    }.items():
        assert str(folders[name]) == path


def test_a_point_named_dev_is_trained_and_evaluated(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.set(sweep={"dev": {}})
    project.stage("finetune@dev")
    project.stage("evaluate@dev")
    assert (project.folder / "data/evaluation/dev/metrics.json").is_file()
