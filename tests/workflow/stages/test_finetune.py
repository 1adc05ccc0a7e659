import json
import random
from types import SimpleNamespace

import pytest
import spacy

from workflow.corpus import shards
from workflow.stages.finetune import batches, make_optimizer


def test_the_learning_rate_rises_then_falls_and_is_never_zero():
    for warmup in (0, 0.1, 0.5):
        optimizer = make_optimizer(SimpleNamespace(learning_rate=1.0, warmup=warmup, weight_decay=0, grad_clip=0), 100)
        rates = []
        for _ in range(100):
            optimizer.step_schedules()
            rates.append(float(optimizer.learn_rate))
        peak = rates.index(max(rates))
        assert min(rates) > 0 and max(rates) == pytest.approx(1.0, abs=0.011) and abs(peak - 100 * warmup) <= 1
        assert rates[:peak] == sorted(rates[:peak]) and rates[peak:] == sorted(rates[peak:], reverse=True)


def test_an_epoch_has_the_planned_steps_and_every_document_once(tmp_path):
    nlp = spacy.blank("en")
    shards.write((nlp.make_doc(str(i)) for i in range(107)), tmp_path, 10)
    settings = SimpleNamespace(shuffle_buffer=25, batch_size=8)
    epochs = [
        [[doc.text for doc in batch] for batch in batches(tmp_path, nlp, settings, random.Random(s))] for s in (0, 0, 1)
    ]
    for epoch in epochs:
        assert len(epoch) == 14 and sorted(int(t) for batch in epoch for t in batch) == list(range(107))
    assert epochs[0] == epochs[1] != epochs[2]


SLOW = pytest.mark.skipif("not config.getoption('slow')", reason="trains again in two processes: run pytest --slow")


def test_two_processes_train_the_same_model_as_one(finished, tmp_path):
    """They share each batch: the curves are the same up to rounding, with one receipt and one run in MLflow."""
    project = finished.copy(tmp_path / "project")
    project.set(**{"finetune.dropout": 0.0, "finetune.precision": "fp32", "finetune.batch_size": 5})
    curves = []
    for processes in (1, 2):
        project.set(**{"finetune.processes": processes})
        project.stage("finetune@base")
        model = project.folder / "data/model/base"
        curves.append([json.loads((model / f"{name}_curve.json").read_text()) for name in ("train", "dev")])
    for one, two in zip(*curves, strict=True):
        assert [list(point) for point in one] == [list(point) for point in two]
        for point, other in zip(one, two, strict=True):
            assert list(other.values()) == pytest.approx(list(point.values()), abs=1e-4)
    receipt = json.loads((project.folder / "data/receipts/finetune@base.json").read_text())
    assert receipt["steps"] == receipt["steps_planned"] == 10 and receipt["mlflow_run"]
    project.stage("evaluate@base")


@pytest.mark.slow
@SLOW
def test_a_budget_stops_all_processes(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.set(**{"finetune.processes": 2, "finetune.epochs": 200, "carbon.budget_g": 1e-4})
    assert "carbon.budget_g, 0.0001 g of CO2, is spent" in project.stage("finetune@base").stdout
    receipt = json.loads((project.folder / "data/receipts/finetune@base.json").read_text())
    assert 0 < receipt["steps"] < receipt["steps_planned"]


@pytest.mark.slow
@SLOW
def test_the_stage_fails_if_a_process_fails(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.set(**{"finetune.processes": 2})
    (project.folder / "data/wordpieces/train/report.json").unlink()
    done = project.stage("finetune@base", check=False)
    assert done.returncode != 0 and "report.json" in done.stderr
    assert not (project.folder / "data/model/base").exists()
