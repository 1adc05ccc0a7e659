import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import spacy
import torch
from mlflow import MlflowClient

from tests.workflow.project import Project
from workflow.corpus import shards
from workflow.corpus.predictions import predict
from workflow.engine import params, stop
from workflow.engine.errors import Problem
from workflow.files import digest
from workflow.model import regression, scores
from workflow.stages import finetune
from workflow.stages.finetune import batches


@pytest.mark.parametrize("changes", [{"trainable": False}, {"head": "native"}])
def test_contrast_that_cannot_be_learned_is_refused(fine_tune, tmp_path, changes):
    with pytest.raises(Problem, match="contrastive: true requires trainable: true, and another head"):
        fine_tune(tmp_path, contrastive=True, **changes)


def test_by_contrast_only_the_vectors_are_trained_and_the_head_is_a_regression(fine_tune, tmp_path, prepared):
    """The saved head is that of the saved transformer; dev is scored with it, at the end."""
    fine_tune(tmp_path, contrastive=True, contrastive_steps=7)
    assert fine_tune.facts["steps"] == fine_tune.facts["steps_planned"] == 7
    [point] = curve(tmp_path)
    nlp = spacy.load(tmp_path / "base/pipeline")
    head = nlp.get_pipe("trf_textcat")
    saved = head.linear.get_param("W").copy()
    docs = list(shards.read(shards.files(prepared.folder / "data/wordpieces/train"), nlp.vocab))
    regression.fit_head(nlp, docs, "none")
    np.testing.assert_allclose(saved, head.linear.get_param("W"), atol=1e-4)
    dev = finetune.dev_arrays(nlp, prepared.folder / "data/wordpieces/dev", list(head.labels), lambda: False)
    assert scores.on_dev(*dev, True)["dev_loss"] == pytest.approx(point["dev_loss"], abs=1e-4)


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


class Killed(BaseException):
    """Ends a training as SIGKILL does: nothing of it runs afterwards."""


@pytest.fixture(scope="module")
def prepared(finished, tmp_path_factory):
    """A project with its store of MLflow, in which trainings differ from one another in their settings only."""
    return finished.copy(tmp_path_factory.mktemp("training") / "project", keep_runs=True)


@pytest.fixture
def fine_tune(prepared, monkeypatch):
    """A function that fine-tunes in this process: settings of `finetune`, and where the results go."""
    monkeypatch.chdir(prepared.folder)
    monkeypatch.setattr(stop, "_asked", None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    threads = torch.get_num_threads()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def run(out: Path, *, minutes: float = 1e-9, **settings) -> dict[str, bytes]:
        values = params.load()
        values = values.model_copy(
            update={
                "finetune": values.finetune.model_copy(update={"epochs": 3, "shuffle_buffer": 20, **settings}),
                "checkpoints": values.checkpoints.model_copy(update={"minutes": minutes}),
            }
        )
        names = ("weights", "features", "wordpieces/train", "wordpieces/dev")
        outputs = {"model": out / "base", "checkpoint": out / "checkpoint"}
        shutil.rmtree(outputs["model"], ignore_errors=True)  # as the engine does
        outputs["model"].mkdir(parents=True)
        run.facts = finetune.run(values, {name: Path("data") / name for name in names}, outputs)
        return {str(p.relative_to(out / "base")): p.read_bytes() for p in (out / "base").rglob("*") if p.is_file()}

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


def kill_at(step: int, monkeypatch) -> None:
    """End the training in the middle of a step."""
    update, calls = finetune.distributed.update, itertools.count(1)

    def dying(*args, **kwargs):
        if next(calls) == step:
            raise Killed
        return update(*args, **kwargs)

    monkeypatch.setattr(finetune.distributed, "update", dying)


@pytest.mark.parametrize(
    "settings, step",
    [
        ({}, 5),
        ({"precision": "bf16"}, 4),
        ({"trainable": False}, 6),
        ({"grad_clip": 0.0, "warmup": 0.5}, 2),
        (
            {
                "evaluate_every": 2,
                "max_steps": 7,
                "head_learning_rate": 1e-3,
                "class_weights": "balanced",
                "calibrate": True,
            },
            6,
        ),
        ({"contrastive": True, "contrastive_steps": 9, "evaluate_every": 4}, 6),
    ],
    ids=[
        "in an epoch",
        "bf16, after an epoch",
        "frozen",
        "before a pipeline is saved",
        "dev within an epoch",
        "contrastive",
    ],
)
def test_a_killed_training_continues_to_the_same_bytes(fine_tune, tmp_path, monkeypatch, capsys, settings, step):
    expected = fine_tune(tmp_path / "undisturbed", minutes=10, **settings)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_at(step, patched)
        fine_tune(tmp_path / "killed", **settings)
    capsys.readouterr()
    assert fine_tune(tmp_path / "killed", minutes=10, **settings) == expected
    assert f"continuing after step {step - 1}" in capsys.readouterr().out


def test_a_signal_while_dev_is_scored_stops_at_a_checkpoint(fine_tune, tmp_path, monkeypatch):
    expected = fine_tune(tmp_path / "undisturbed", minutes=10)

    def interrupted(*args):
        for number, prediction in enumerate(predict(*args)):
            if number == 5:
                os.kill(os.getpid(), signal.SIGTERM)
            yield prediction

    with monkeypatch.context() as patched, pytest.raises(stop.Stopped, match="after 3 of 9 steps"):
        patched.setattr(finetune, "predict", interrupted)
        fine_tune(tmp_path / "stopped", minutes=10)
    monkeypatch.setattr(stop, "_asked", None)
    assert fine_tune(tmp_path / "stopped", minutes=10) == expected


def test_a_run_in_mlflow_continues_with_its_training(fine_tune, tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_at(5, patched)
        fine_tune(tmp_path)
    fine_tune(tmp_path, minutes=10)
    client = MlflowClient("sqlite:///mlflow.db")
    run = client.get_run(fine_tune.facts["mlflow_run"])
    steps = {
        name: [m.step for m in client.get_metric_history(run.info.run_id, f"train/{name}")]
        for name in ("loss", "dev_loss")
    }
    assert run.info.status == "FINISHED" and steps == {"loss": list(range(1, 10)), "dev_loss": [3, 6, 9]}


def curve(out: Path) -> list[dict[str, float]]:
    return json.loads((out / "base/dev_curve.json").read_text())


def test_dev_may_be_scored_within_an_epoch_and_decides_when_to_end(fine_tune, tmp_path):
    """An epoch has 3 steps."""
    fine_tune(tmp_path / "often", minutes=10, evaluate_every=2, max_steps=7)
    assert [(point["step"], point["epoch"]) for point in curve(tmp_path / "often")] == [(2, 1), (4, 2), (6, 2), (7, 3)]
    assert fine_tune.facts["steps"] == fine_tune.facts["steps_planned"] == 7 and not fine_tune.facts["ended_early"]
    fine_tune(tmp_path / "patient", minutes=10, evaluate_every=1, learning_rate=1e-12, weight_decay=0.0, patience=2)
    assert [point["step"] for point in curve(tmp_path / "patient")] == [1, 2, 3]
    assert fine_tune.facts["ended_early"] == "finetune.patience: the last 2 evaluations were not better"


def test_the_curve_is_best_where_the_rule_says():
    points = [(0.5, 0.3, 1.0), (0.6, 0.2, 1.0), (0.6, 0.2, 0.9), (0.4, 0.3, 0.8)]
    keys = ("dev_accuracy", "dev_macro_f1", "dev_loss")
    dev_curve = [dict(zip(keys, point, strict=True)) for point in points]
    found = {select_by: scores.best_of(dev_curve, select_by) for select_by in scores.RULES}
    assert found == {"accuracy": 2, "macro_f1": 3, "log_loss": 3}


def diverge_at(step: int, monkeypatch) -> None:
    """Make a weight infinite before a step, so that its loss is NaN."""
    update, calls = finetune.distributed.update, itertools.count(1)

    def poisoned(nlp, *args, **kwargs):
        if next(calls) == step:
            next(nlp.get_pipe("trf_tok2vec").transformer.parameters()).data.fill_(math.inf)
        return update(nlp, *args, **kwargs)

    monkeypatch.setattr(finetune.distributed, "update", poisoned)


def test_a_training_whose_loss_is_nan_fails_and_names_the_step_and_the_rows(fine_tune, tmp_path, monkeypatch):
    diverge_at(5, monkeypatch)
    with pytest.raises(Problem) as problem:
        fine_tune(tmp_path)
    assert re.match(
        r"step 5 of 9: the loss of data/few/train.jsonl:\d+, .* and 13 more rows became nan\. ", str(problem.value)
    )
    best = Path(str(problem.value).rpartition(": ")[2])
    assert best == tmp_path / "checkpoint" / "best-3" and spacy.load(best)("Good.").cats


def test_a_training_whose_loss_is_nan_may_end_with_the_best_model_so_far(fine_tune, tmp_path, monkeypatch):
    expected = fine_tune(tmp_path / "one", minutes=10, epochs=1, warmup=0.0)
    diverge_at(5, monkeypatch)
    found = fine_tune(tmp_path / "diverged", on_divergence="best", warmup=0.0)
    assert re.match(r"the loss of data/few/train.jsonl:\d+, .* became nan", fine_tune.facts["ended_early"])
    assert fine_tune.facts["steps"] == 5 and fine_tune.facts["steps_planned"] == 9
    assert found.keys() == expected.keys()


def test_a_training_that_diverges_in_its_first_epoch_has_no_model(fine_tune, tmp_path, monkeypatch):
    diverge_at(2, monkeypatch)
    with pytest.raises(Problem, match="dev has not been scored yet, so there is no model"):
        fine_tune(tmp_path, on_divergence="best")


def interrupted(project: Project, number: int) -> int:
    """Run fine-tuning, and send a signal after the first checkpoint. RETURNS: its exit status."""
    stage = subprocess.Popen(
        ["python", "-m", "workflow.stages.finetune", "base"],
        cwd=project.folder, env=project.environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    checkpoints, lock = project.folder / "data/checkpoints/finetune@base", project.folder / "data/running/finetune@base"
    while not any(checkpoints.glob("*/step-*")):
        assert stage.poll() is None
        time.sleep(0.02)
    os.kill(int(lock.read_text().split()[1]), number)
    begin = time.monotonic()
    project.printed = stage.communicate(timeout=40)[1]
    assert time.monotonic() - begin < 30  # on a busy machine, too
    return stage.returncode if stage.returncode >= 0 else 128 - stage.returncode  # as a shell says it


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stage_that_was_stopped_or_killed_continues(finished, tmp_path, number):
    """With real processes: SIGTERM ends the stage at a checkpoint, with a line; SIGKILL leaves the last checkpoint."""
    project = finished.copy(tmp_path / "project")
    project.set(**{"finetune.epochs": 20, "checkpoints.minutes": 1e-9})
    assert interrupted(project, number) == 128 + number
    if number == signal.SIGTERM:
        assert re.search(r"finetune@base: stopped at a checkpoint after \d+ of 60 steps: `make repro`", project.printed)
        assert not (project.folder / "data/model/base").exists()
    assert "continuing after step" in project.stage("finetune@base").stdout
    receipt = json.loads((project.folder / "data/receipts/finetune@base.json").read_text())
    assert receipt["attempts"] == 2 and receipt["steps"] == 60
    assert not (project.folder / "data/checkpoints/finetune@base").exists()


@pytest.mark.slow
@pytest.mark.parametrize("contrastive", [False, True])
def test_two_processes_train_the_same_model_as_one(finished, tmp_path, contrastive):
    """They share each batch: the curves are the same up to rounding, with one receipt and one run in MLflow."""
    project = finished.copy(tmp_path / "project")
    project.set(**{"finetune.contrastive": contrastive, "finetune.contrastive_steps": 10})
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
def test_a_budget_stops_all_processes(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.set(**{"finetune.processes": 2, "finetune.epochs": 200, "carbon.budget_g": 1e-4})
    assert "carbon.budget_g, 0.0001 g of CO2, is spent" in project.stage("finetune@base").stdout
    receipt = json.loads((project.folder / "data/receipts/finetune@base.json").read_text())
    assert 0 < receipt["steps"] < receipt["steps_planned"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_two_processes_continue_to_the_same_bytes(finished, tmp_path, number):
    """The signal goes to the process that has started them."""
    project = finished.copy(tmp_path / "project")
    project.set(**{"finetune.epochs": 30, "finetune.processes": 2, "checkpoints.minutes": 1e-9})
    project.stage("finetune@base")
    expected = digest(project.folder / "data/model/base")
    assert interrupted(project, number) == 128 + number
    done = project.stage("finetune@base")
    assert "continuing after step" in done.stdout and digest(project.folder / "data/model/base") == expected
