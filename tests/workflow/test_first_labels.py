"""What to label first, with weights and nothing else."""

import json
import shutil

import pytest

from workflow.corpus import rows

THINGS = ("soup", "room", "bus", "desk")


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    """Of the results of the DAG there are only the weights."""
    project = finished.copy(tmp_path_factory.mktemp("first") / "project")
    for path in (project.folder / "data").iterdir():
        if path.name != "weights":
            shutil.rmtree(path)
    (project.folder / "texts").mkdir()
    (project.folder / "texts/a.txt").write_text("".join(f"The {thing}.\n" * 2 for thing in THINGS), "utf-8")
    (project.folder / "texts/b.csv").write_text("text,id\n" + "".join(f"The {t} again,1\n" for t in THINGS), "utf-8")
    return project


def call(project, *arguments, check=True):
    return project.module("first_labels", *arguments, "--labels", "GOOD", "BAD", check=check)


def test_tasks_are_different_texts_and_come_back_as_rows(project, tmp_path):
    done = call(project, "texts", "--rows", "5")
    tasks = [json.loads(line) for line in done.stdout.splitlines()]
    assert len({task["text"] for task in tasks}) == 5
    assert all([option["id"] for option in task["options"]] == ["GOOD", "BAD"] for task in tasks)
    assert call(project, "texts", "--rows", "5").stdout == done.stdout
    answers = tmp_path / "train.jsonl"
    answers.write_text("".join(json.dumps(task | {"accept": ["BAD"], "answer": "accept"}) + "\n" for task in tasks))
    read = rows.read(answers, exclusive=True, on_bad_row="fail", tally=rows.Tally())
    assert [(row.text, row.labels) for row in read] == [(task["text"], {"BAD": True}) for task in tasks]


def test_all_texts_if_more_are_asked_for(project):
    found = [
        json.loads(line)["text"] for line in call(project, "texts/a.txt", "texts", "--rows", "99").stdout.splitlines()
    ]
    assert sorted(found) == sorted([f"The {thing}." for thing in THINGS] + [f"The {thing} again" for thing in THINGS])


def test_texts_with_equal_vectors_are_not_chosen_twice(project):
    (project.folder / "case.txt").write_text(
        "".join(f"The {t}.\nTHE {t}.\nthe {t.upper()}.\n" for t in THINGS), "utf-8"
    )
    found = [json.loads(line)["text"] for line in call(project, "case.txt", "--rows", "4").stdout.splitlines()]
    assert sorted(text.lower() for text in found) == sorted(f"the {thing}." for thing in THINGS)


def test_a_closed_pipe_is_no_error(project):
    command = "python -m workflow.first_labels texts --labels A | head -n 1 && exit ${PIPESTATUS[0]}"
    done = project.call("bash", "-c", command)
    assert len(done.stdout.splitlines()) == 1 and "Traceback" not in done.stderr


def test_messages(project, tmp_path):
    def said(*arguments):
        done = call(project, *arguments, check=False)
        assert done.returncode == 1 and not done.stdout
        return done.stderr

    assert said("nowhere") == "first_labels: error: nowhere: not found\n"
    (project.folder / "empty").mkdir()
    assert said("empty").startswith("first_labels: error: empty has no rows in .jsonl, ")
    (project.folder / "none.txt").write_text("\n")
    assert said("none.txt") == "first_labels: error: there is no row with a text\n"
    (project.folder / "bad.jsonl").write_text('{"text": 1}\n')
    assert said("bad.jsonl").startswith("first_labels: error: bad.jsonl:1: its text is 1")
    (project.folder / "data/weights").rename(project.folder / "gone")
    assert said("texts") == "first_labels: error: data/weights is missing: `dvc repro download_weights` fetches it\n"
    (project.folder / "gone").rename(project.folder / "data/weights")
