"""Recent text beside the test split."""

import json

import numpy as np
import pytest

from tests.workflow.project import executed
from workflow.corpus.rows import Record
from workflow.model import drift
from workflow.stages import monitor

CORPORA = {"same": "data/recent/same.jsonl", "other": "data/recent/other.jsonl"}


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    project = finished.copy(tmp_path_factory.mktemp("monitor") / "project")
    (project.folder / "data/recent").mkdir()
    test, train = (
        [json.loads(x) for x in (project.folder / f"data/few/{split}.jsonl").open()] for split in ("test", "train")
    )
    same = [row | {"production": row["label"]} for row in test]
    other = [{"text": f"{row['text']} Zyx wvu {i} zyx!"} for i, row in enumerate(train)]
    for name, rows in {"same": same, "other": other}.items():
        (project.folder / f"data/recent/{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    project.set(**{"monitor.corpora": CORPORA})
    project.first = executed(project.call("dvc", "repro").stdout)
    return project


def report(project, name):
    return json.loads((project.folder / f"data/monitor/{name}/report.json").read_text())


def test_the_same_text_is_no_alarm_and_other_text_is(project):
    assert set(project.first) == {"monitor@same", "monitor@other"}
    same, other = report(project, "same"), report(project, "other")
    assert same["documents"] == 24 and min(finding["p"] for finding in same["findings"]) > 0.05
    accuracy = json.loads((project.folder / "data/evaluation/base/metrics.json").read_text())["test"]["accuracy"]
    assert same["test_accuracy"] == pytest.approx(accuracy, abs=1e-6) == same["labelled"]["accuracy"]
    assert same["estimated"]["accuracy"] == pytest.approx(accuracy, abs=1e-5)
    # in production, another model has predicted the gold labels
    assert same["production"]["agreement"] == pytest.approx(accuracy)
    wrong = same["production"]["differing"]
    assert len(wrong) == round(24 * (1 - accuracy)) and all(row["production"] != row["predicted"] for row in wrong)
    assert [f["p"] < 0.001 for f in other["findings"] if "classifier" in f["name"]] == [True]
    assert {"Zyx", "wvu"} <= set(other["telling"])
    assert other["labelled"] is None and other["production"] is None


def test_an_alarm_has_an_exit_status_of_its_own(project):
    calm = project.module("monitor", "same", check=False)
    assert calm.returncode == 0 and "monitor same: 24 documents" in calm.stdout
    alarmed = project.module("monitor", check=False)
    assert alarmed.returncode == 3 and "\n        alarm: " in alarmed.stdout
    unknown = project.module("monitor", "nothing", check=False)
    assert unknown.returncode == 1 and unknown.stderr == "monitor: error: params.yaml: monitor.corpora has no nothing\n"


@pytest.mark.slow
def test_limits(project, tmp_path):
    strict = project.copy(tmp_path / "project")
    strict.set(**{"monitor.min_accuracy": 0.95, "monitor.min_agreement": 0.999})
    assert executed(strict.call("dvc", "repro").stdout) == []  # limits are applied to what is known
    done = strict.module("monitor", "same", check=False)
    _, accuracy, agreement, _ = done.stdout.splitlines()
    assert done.returncode == 3 and accuracy.strip().startswith("alarm: real accuracy 0.")
    assert agreement.strip().startswith("alarm: agreement with production 0.")
    said = strict.module("records.ledger").stdout
    assert "MLflow: monitor other: recorded run" in said and "alarm: real accuracy" in said
    strict.module("records.report")
    page = (strict.folder / "data/report.html").read_text()
    assert "<h2>Recent text beside test</h2>" in page and "Alarm: agreement with production" in page


def test_changed_rows_are_looked_at_again(project, tmp_path):
    changed = project.copy(tmp_path / "project")
    with (changed.folder / "data/recent/same.jsonl").open("a") as file:
        file.write('\n{"text": "More."}')
    done = changed.module("monitor", "same", check=False)
    assert done.returncode == 1
    assert done.stderr == "monitor: error: data/recent/same.jsonl has changed since the last result: run `make repro`\n"


def test_rows_that_are_not_there(project, tmp_path):
    other = project.copy(tmp_path / "project")
    other.set(**{"monitor.corpora": {"june": "data/recent/june.jsonl"}})
    done = other.module("engine.params", check=False)
    assert done.stderr == "error: params.yaml: monitor.corpora.june is 'data/recent/june.jsonl': not found\n"


def test_results_are_not_written_over_rows(project, tmp_path):
    other = project.copy(tmp_path / "project")
    other.set(**{"monitor.corpora": {"june": "data/monitor/june"}})
    done = other.module("engine.params", check=False)
    assert "monitor.corpora.june is 'data/monitor/june', but stages write data/monitor" in done.stderr


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": "A"}, True),
        ({"label": " A"}, True),
        ({"label": "B"}, False),
        ({"label": "new"}, False),
        ({"label": ""}, None),
        ({"label": "A", "answer": "ignore"}, None),
        ({"labels": "A"}, True),  # a cell of a CSV file
        ({"accept": ["B"], "answer": "accept"}, False),
        ({"cats": {"A": 1, "B": 0}}, True),
        ({"labels": [{"start": 0}]}, None),
        ({}, None),
    ],
)
def test_real_labels_are_read_as_those_of_train(columns, expected):
    """The model predicts A."""
    recent = sample([["x"]], np.array([0.1]))
    found = monitor.labelled([Record("x", {"text": "x", **columns}, "f:1")], recent, ["A", "B"], True, 0.95)
    assert (found and bool(found["accuracy"])) is expected


def test_labels_that_are_not_exclusive():
    recent = sample([["x"]], np.array([0.1]))  # A applies, B does not
    rows = {"A": True, "A|B": False, "B": False}
    for cell, expected in rows.items():
        found = monitor.labelled([Record("x", {"text": "x", "labels": cell}, "f:1")], recent, ["A", "B"], False, 0.95)
        assert bool(found["accuracy"]) is expected


def test_a_sample_of_many_rows(monkeypatch):
    monkeypatch.setattr(monitor, "MOST", 10)
    kept, n = monitor.drawn((Record(str(i), {}, "") for i in range(100)), 0)
    assert n == 100 and len(kept) == 10 and [int(r.text) for r in kept] == sorted(int(r.text) for r in kept)
    assert [r.text for r in kept] == [r.text for r in monitor.drawn((Record(str(i), {}, "") for i in range(100)), 0)[0]]


def test_too_few_rows(project, tmp_path):
    few = project.copy(tmp_path / "project")
    (few.folder / "data/recent/same.jsonl").write_text('{"text": "Good."}\n')
    done = few.stage("monitor@same", check=False)
    assert done.returncode == 1 and "monitor.corpora.same has 1 rows: 20 or more are needed" in done.stderr


def test_holm():
    """As in statsmodels: multipletests([0.01, 0.04, 0.03, 0.005], method="holm")."""
    assert drift._holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def sample(words, p):
    scores = np.stack([1 - p, p], axis=1)
    return drift.Sample(words, np.zeros(len(words)), scores, scores > 0.5)


def test_each_kind_of_change_is_found_by_its_test():
    rng = np.random.default_rng(0)

    def texts(n, vocabulary):
        return [[vocabulary[i] for i in rng.integers(0, len(vocabulary), 12)] for _ in range(n)]

    known = [f"w{i}" for i in range(40)]
    test = sample(texts(400, known), rng.random(400))

    def alarms(recent):
        findings, _ = drift.compare(test, recent, set(known), ["A", "B"], 0)
        return {i for i, finding in enumerate(findings) if finding.p < 0.05}

    assert alarms(sample(texts(400, known), rng.random(400))) == set()
    assert {0, 1} <= alarms(sample(texts(400, known), rng.random(400) ** 0.5))
    assert {2} <= alarms(sample([words[:9] for words in texts(400, known)], rng.random(400)))
    assert {4, 5} <= alarms(sample(texts(400, known[:30] + ["new"] * 10), rng.random(400)))
    unknown = test._replace(unknown=np.ones(400))
    assert alarms(unknown) == {3}


def test_estimated_accuracy_falls_with_confidence():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.6, 1.0, 5000)
    right = rng.random(5000) < confidence
    found = drift.estimated_accuracy(confidence, right, confidence - 0.1, 0.95, 0)
    assert found["low"] < found["accuracy"] < found["high"]
    assert found["accuracy"] == pytest.approx(right.mean() - 0.1)
