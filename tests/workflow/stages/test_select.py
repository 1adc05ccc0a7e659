"""Rows to label next: tasks for annotators, which come back as rows."""

import json

import numpy as np
import pytest

from tests.workflow.project import executed
from workflow.corpus import rows
from workflow.model import choice

TEXTS = [f"The {thing} was {how}." for thing in ("soup", "room", "bus", "desk") for how in ("cold", "good", "late")]


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    project = finished.copy(tmp_path_factory.mktemp("select") / "project")
    (project.folder / "data/unlabelled").mkdir()
    known = json.loads((project.folder / "data/few/train.jsonl").read_text().splitlines()[0])["text"]
    (project.folder / "data/unlabelled/a.txt").write_text("\n".join([*TEXTS, TEXTS[0], known]), "utf-8")
    corpora = {"reviews": "data/unlabelled", "reviews_2": "data/unlabelled"}
    project.set(**{"annotate.corpora": corpora, "annotate.slice_rows": 50})
    project.set(**{"select.corpora": ["reviews"], "select.rows": 4})
    project.module("partition")
    project.first = executed(project.call("dvc", "repro").stdout)
    return project


def tasks(project):
    return [json.loads(line) for line in (project.folder / "data/select/reviews/tasks.jsonl").open()]


def test_tasks_are_rows_that_nobody_has_labelled(project):
    assert [name for name in project.first if not name.startswith("annotate")] == ["select@reviews"]
    report = json.loads((project.folder / "data/select/reviews/report.json").read_text())
    assert report == {"candidates": len(TEXTS), "chosen": 4, "by": "margin"}
    found = tasks(project)
    assert len({task["text"] for task in found}) == 4 and {task["text"] for task in found} <= set(TEXTS)
    for task in found:
        assert task["accept"] == [] and {option["id"] for option in task["options"]} == {"NEGATIVE", "POSITIVE"}
        assert 0 <= task["meta"]["score"] <= 1 and task["meta"]["predicted"] in ("NEGATIVE", "POSITIVE")
        assert all(isinstance(task[key], int) and abs(task[key]) < 2**31 for key in ("_input_hash", "_task_hash"))


@pytest.mark.slow
def test_labels_come_back_and_are_not_asked_for_again(project, tmp_path):
    """The round trip: only what depends on the new rows is computed, and the next rows are others."""
    labelled = project.copy(tmp_path / "project")
    labelled.module("records.ledger")  # a result with fewer labels is on record
    answers = [task | {"accept": ["POSITIVE"], "answer": "accept"} for task in tasks(labelled)]
    with (labelled.folder / "data/few/train.jsonl").open("a") as file:
        file.write("\n" + "\n".join(map(json.dumps, answers)))
    read = list(
        rows.read(labelled.folder / "data/few/train.jsonl", exclusive=True, on_bad_row="fail", tally=rows.Tally())
    )
    assert [row.labels for row in read[-4:]] == [{"POSITIVE": True}] * 4
    ran = executed(labelled.call("dvc", "repro").stdout)
    assert "sentencize@train" in ran and "wordpiece@dev" not in ran and "select@reviews" in ran
    assert not {task["text"] for task in tasks(labelled)} & {task["text"] for task in answers}
    said = labelled.module("records.ledger").stdout
    assert f"\nselect reviews: 4 of {len(TEXTS) - 4} rows to label next, by margin" in said
    assert "MLflow: select reviews: recorded run" in said
    labelled.module("records.report")
    page = (labelled.folder / "data/report.html").read_text()
    assert "<h2>Learning curve</h2>" in page and "training documents" in page


def test_a_corpus_that_is_not_annotated(project, tmp_path):
    other = project.copy(tmp_path / "project")
    other.set(**{"select.corpora": ["review"]})
    done = other.module("engine.params", check=False)
    assert done.stderr == "error: params.yaml: select.corpora has 'review', but annotate.corpora has not\n"


@pytest.mark.parametrize("strategy", choice.STRATEGIES)
def test_each_row_is_chosen_once(strategy):
    rng = np.random.default_rng(0)
    vectors, margins = rng.normal(size=(50, 4)), rng.random(50)
    vectors[:20] = vectors[0]  # equal rows make empty clusters
    for n in (1, 10, 50):
        chosen = choice.STRATEGIES[strategy](margins, lambda rows: vectors[rows], n, np.random.default_rng(1))
        again = choice.STRATEGIES[strategy](margins, lambda rows: vectors[rows], n, np.random.default_rng(1))
        assert len(set(chosen.tolist())) == n and chosen.tolist() == again.tolist()


def test_strategies_do_what_they_say():
    """Margin: unsure rows, not many of a kind. Diversity: a row of each kind, the most frequent first."""
    kinds = np.repeat([0, 1, 2], [30, 20, 10])
    vectors = 10 * np.eye(3)[kinds] + np.random.default_rng(0).normal(size=(60, 3), scale=0.1)
    margins = np.linspace(0, 1, 60)
    rng = np.random.default_rng(0)
    assert kinds[choice.by_diversity(margins, lambda rows: vectors[rows], 3, rng)].tolist() == [0, 1, 2]
    chosen = choice.by_margin(margins, lambda rows: vectors[rows], 20, rng)
    assert chosen.max() < 60 and set(kinds[chosen]) == {0, 1, 2} and chosen[0] == 0
