"""Labels of train that look wrong: a stage for each method that params.yaml asks for."""

import json

import numpy as np
import pytest

from tests.workflow.project import executed
from workflow.corpus import rows
from workflow.model import folds, suspicion


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    project = finished.copy(tmp_path_factory.mktemp("audit") / "project")
    project.set(**{"audit.methods": ["features", "finetune"], "audit.folds": 3})
    project.first = executed(project.call("dvc", "repro").stdout)
    return project


def suspects(project, method):
    return [json.loads(line) for line in (project.folder / f"data/audit/{method}/suspects.jsonl").open()]


@pytest.mark.parametrize("method", folds.METHODS)
def test_suspects_are_tasks_that_come_back_as_rows(project, method):
    assert set(project.first) == {"audit@features", "audit@finetune"}
    train = {
        f"data/few/train.jsonl:{i}": line for i, line in enumerate((project.folder / "data/few/train.jsonl").open(), 1)
    }
    found = suspects(project, method)
    scores = [task["meta"]["score"] for task in found]
    assert found and scores == sorted(scores) and max(scores) <= 0.5
    for task in found:
        row = json.loads(train[task["meta"]["row"]])
        assert task["text"] == row["text"] and task["accept"] == [row["label"]] == [task["meta"]["given"]]
        assert task["meta"]["suggested"] != row["label"]
        assert {option["id"] for option in task["options"]} == {"NEGATIVE", "POSITIVE"}
        assert isinstance(task["_input_hash"], int) and isinstance(task["_task_hash"], int)
    assert len({task["_task_hash"] for task in found}) == len(found)
    answered = project.folder / "data/answers.jsonl"
    answered.write_text("\n".join(json.dumps(task | {"answer": "accept"}) for task in found))
    read = list(rows.read(answered, exclusive=True, on_bad_row="fail", tally=rows.Tally()))
    assert [row.labels for row in read] == [{task["meta"]["given"]: True} for task in found]
    report = json.loads((project.folder / f"data/audit/{method}/report.json").read_text())
    assert report["documents"] == 48 and report["suspects"] == len(found)
    assert 0 <= report["wrong"]["low"] <= report["wrong"]["share"] <= report["wrong"]["high"] <= 1


def test_the_report_and_the_ledger_have_it(project, tmp_path):
    recorded = project.copy(tmp_path / "project")
    said = recorded.module("records.ledger").stdout
    assert "\naudit by features: about " in said and "MLflow: audit features: recorded run" in said
    recorded.module("records.report")
    page = (recorded.folder / "data/report.html").read_text()
    assert "<h2>Audit of the labels</h2>" in page and suspects(project, "features")[0]["meta"]["row"] in page


def test_more_folds_than_documents(finished, tmp_path):
    few = finished.copy(tmp_path / "project")
    few.set(**{"audit.methods": ["features"], "audit.folds": 49})
    done = few.call("dvc", "repro", check=False)
    assert "audit.folds is 49, but train has only 48 documents" in done.stdout + done.stderr
    few.set(**{"audit.methods": ["features", "features"]})
    done = few.module("engine.params", check=False)
    assert "audit.methods is ['features', 'features']: each may occur once" in done.stderr


@pytest.mark.parametrize("exclusive", [True, False])
def test_flipped_labels_are_found(exclusive):
    """Of probabilities that are right, the ranking begins with the flipped labels, and the estimate is near."""
    rng = np.random.default_rng(0)
    truth, flipped = rng.integers(0, 3, 600), rng.random(600) < 0.1
    given = np.where(flipped, (truth + 1) % 3, truth)
    p = 0.85 * np.eye(3)[truth] + 0.05
    gold = np.eye(3)[given]
    if not exclusive:
        gold[:50, 2] = np.nan
    found = suspicion.rank(gold, p, exclusive)
    n = int(flipped.sum())
    assert {suspect.document for suspect in found[:n]} >= set(np.flatnonzero(flipped[50:]) + 50)
    if exclusive:
        assert [suspect.document for suspect in found] == sorted(np.flatnonzero(flipped))
        assert all(suspect.suggested == truth[suspect.document] for suspect in found)
    wrong = suspicion.estimate(gold, p, exclusive, 0.95, 0)
    share = flipped.mean() if exclusive else 2 * flipped.mean() / 3
    assert wrong["low"] <= wrong["share"] <= wrong["high"] and wrong["share"] == pytest.approx(share, abs=0.02)


def test_folds_keep_the_shares_of_labels():
    gold = np.eye(3)[[0] * 20 + [1] * 10 + [2]]  # the last label is rarer than there are folds
    parts = folds.split(gold, 5, True, 0)
    assert sorted(i for _, predicted in parts for i in predicted) == list(range(31))
    for learned, predicted in parts:
        assert not set(learned) & set(predicted) and gold[predicted, 1].sum() == 2 and 4 <= len(predicted) - 2 <= 5
