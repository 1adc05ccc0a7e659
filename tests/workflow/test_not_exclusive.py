"""What comes after training, where a document may have any number of labels, and not all of them are known."""

import json

import pytest
import spacy

from tests.workflow.project import executed

TEXTS = [f"The {thing} was {how}." for thing in ("soup", "room", "bus", "desk", "tea") for how in ("cold", "good")]


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    project = finished.copy(tmp_path_factory.mktemp("several") / "project")
    for split in ("train", "dev", "test"):
        path = project.folder / f"data/few/{split}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [json.dumps({"text": r["text"], "labels": [r["label"]] if i % 3 else []}) for i, r in enumerate(rows)]
        if split == "train":  # a binary answer says nothing of the other label
            lines.append(json.dumps({"text": "It is late.", "label": "NEGATIVE", "answer": "accept"}))
        path.write_text("\n".join(lines), "utf-8")
    (project.folder / "data/unlabelled").mkdir()
    (project.folder / "data/unlabelled/a.txt").write_text("\n".join(TEXTS), "utf-8")
    recent = [{"text": text, "labels": ["POSITIVE"]} for text in TEXTS * 3]
    (project.folder / "data/recent.jsonl").write_text("\n".join(map(json.dumps, recent)), "utf-8")
    project.set(
        **{
            "data.exclusive": False,
            "annotate.corpora": {"more": "data/unlabelled"},
            "select.corpora": ["more"],
            "select.rows": 3,
            "audit.methods": ["features", "finetune"],
            "audit.folds": 2,
            "monitor.corpora": {"recent": "data/recent.jsonl"},
            "distill.students": {"small": {"vectors": 0, "epochs": 1}, "words": {"architecture": "ngrams"}},
        }
    )
    project.module("partition")
    project.ran = executed(project.call("dvc", "repro").stdout)
    return project


def read(project, path):
    return json.loads((project.folder / path).read_text())


def lines(project, path):
    return [json.loads(line) for line in (project.folder / path).open()]


@pytest.mark.slow
def test_each_stage_works(project):
    assert {"select@more", "audit@features", "audit@finetune", "monitor@recent"} <= set(project.ran)
    tasks = lines(project, "data/select/more/tasks.jsonl")
    assert len(tasks) == 3 and all(task["config"] == {"choice_style": "multiple"} for task in tasks)
    for method in ("features", "finetune"):
        gold = {json.loads(line)["text"]: json.loads(line) for line in (project.folder / "data/few/train.jsonl").open()}
        suspects = lines(project, f"data/audit/{method}/suspects.jsonl")
        assert suspects
        for task in suspects:
            given, suggested = task["meta"]["given"], task["meta"]["suggested"]
            assert {given, suggested} in ({"NEGATIVE", "not NEGATIVE"}, {"POSITIVE", "not POSITIVE"})
            assert (given in task["accept"]) != given.startswith("not ")
            assert gold[task["text"]].get("answer") is None or given == "NEGATIVE"  # the other label is unknown
    report = read(project, "data/monitor/recent/report.json")
    assert report["labelled"]["documents"] == report["documents"] == 30 and report["production"] is None
    for student in ("small", "words"):
        nlp = spacy.load(project.folder / f"data/student/{student}/pipeline")
        assert nlp.pipe_factories == {"textcat": "textcat_multilabel"}
        assert read(project, f"data/student_package/{student}/comparison.json")["documents"] == 24


@pytest.mark.slow
def test_the_ledger_and_the_report_show_it(project, tmp_path):
    said = project.module("records.ledger").stdout
    assert all(f"MLflow: {name}: recorded run" in said for name in ("select more", "audit finetune", "student words"))
    project.module("records.report")
    page = (project.folder / "data/report.html").read_text()
    assert "<h2>Audit of the labels</h2>" in page and "<h2>Students</h2>" in page
