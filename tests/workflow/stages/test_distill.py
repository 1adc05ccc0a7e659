"""Students through the DAG: pipelines that learn what the best model predicts."""

import json
import subprocess
import sys
from collections import Counter
from random import Random

import numpy as np
import pytest
import spacy
from mlflow import MlflowClient

from tests.workflow.project import executed
from workflow.engine import params
from workflow.model import students
from workflow.stages import distill

CORPUS = ["Good value for the money.", "It broke on the second day.", "Nobody answered the phone."] * 3
BOTH = {"small": {"architecture": "ngrams", "buckets": 4096, "epochs": 2}, "net": {"vectors": 16, "epochs": 2}}


def repro(project):
    project.module("partition")
    return executed(project.call("dvc", "repro").stdout)


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    project = finished.copy(tmp_path_factory.mktemp("distill") / "project")
    (project.folder / "data/unlabelled").mkdir()
    (project.folder / "data/unlabelled/a.txt").write_text("\n".join(CORPUS), "utf-8")
    project.set(**{"annotate.corpora": {"more": "data/unlabelled"}, "distill.students": BOTH})
    project.first = repro(project)
    return project


def read(project, path):
    return json.loads((project.folder / path).read_text())


def test_each_student_is_trained_scored_and_packaged(project):
    stages = {f"{stage}@{name}" for stage in ("distill", "evaluate_student", "package_student") for name in BOTH}
    assert {name for name in project.first if not name.startswith("annotate@")} == stages
    for name in BOTH:
        metrics = read(project, f"data/student_evaluation/{name}/metrics.json")
        assert metrics.keys() == {"dev", "test"} and metrics["test"]["documents"] == 24
        facts = read(project, f"data/student_package/{name}/comparison.json")
        assert facts["student"]["accuracy"] == metrics["test"]["accuracy"]
        pairs = [
            [json.loads(line)["predicted"] for line in (project.folder / path / "test.jsonl").open()]
            for path in (f"data/student_evaluation/{name}", "data/evaluation/base")
        ]
        assert facts["agreement"] == pytest.approx(np.mean([a == b for a, b in zip(*pairs, strict=True)]), abs=1e-6)
        speed = read(project, f"data/receipts/package_student@{name}.json")["speed"]
        assert speed["student"]["words_per_second"] > speed["teacher"]["words_per_second"] > 0
        assert speed["teacher"]["wh_per_1000"] > 0 and speed["student"]["mb"] > 0
    # all of train and the corpus, and each text in lowercase: the teacher's tokenizer ignores case
    texts = [json.loads(line)["text"] for line in (project.folder / "data/few/train.jsonl").open()] + CORPUS
    n_cased = sum(text != text.lower() for text in texts)
    assert read(project, "data/receipts/distill@small.json")["documents"] == len(texts) + n_cased


def test_a_student_needs_spacy_alone(project):
    folder = project.folder / "data/student/small/pipeline"
    code = (
        "import sys; sys.modules.update({'torch': None, 'transformers': None}); import spacy; "
        f"nlp = spacy.load({str(folder)!r}); print(nlp.pipe_factories, sum(nlp('Good.').cats.values()))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=True).stdout
    assert said.startswith("{'textcat': 'textcat'}") and float(said.split()[-1]) == pytest.approx(1.0)
    [wheel] = (project.folder / "data/student_package/small").glob("*.whl")
    assert wheel.name == "en_sample_sentiment_small-0.1.0-py3-none-any.whl"
    sbom = read(project, "data/student_package/small/en_sample_sentiment_small.cdx.json")
    names = {component["name"] for component in sbom["components"]}
    assert {"spacy", "thinc"} <= names and not names & {"torch", "transformers", "spacy-rootstock"}


def test_the_ledger_and_the_report_hold_it_beside_its_teacher(project, tmp_path):
    recorded = project.copy(tmp_path / "project")
    said = recorded.module("records.ledger").stdout
    facts = read(recorded, "data/student_package/small/comparison.json")
    assert f"\nstudent small: test accuracy {facts['student']['accuracy']:.3f}, the teacher's is " in said
    assert "MLflow: student small: recorded run" in said and "the energy of its training is saved after" in said
    assert "MLflow: student small: nothing new, this is run" in recorded.module("records.ledger").stdout
    uri = f"sqlite:///{recorded.folder}/mlflow.db"
    [run] = MlflowClient(uri, registry_uri=uri).search_runs(["1"], "attributes.run_name = 'student small'")
    assert run.data.metrics["student/accuracy"] == facts["student"]["accuracy"]
    assert run.data.metrics["agreement"] == facts["agreement"]
    recorded.module("records.report")
    page = (recorded.folder / "data/report.html").read_text()
    assert "<h2>Students</h2>" in page and "<td>small</td>" in page


def test_the_same_inputs_give_the_same_bytes(project, tmp_path):
    again = project.copy(tmp_path / "project")
    again.stage("distill@net")
    outs = [read(p, "data/receipts/distill@net.json")["outs"] for p in (project, again)]
    assert outs[0] == outs[1]


@pytest.mark.slow
def test_a_student_with_a_transformer(project, tmp_path):
    """Self-training: on the rows of which the teacher is surest. Its wheel needs the library, and comes with it."""
    other = project.copy(tmp_path / "project")
    again = {"architecture": "transformer", "surest": 2, "hard_labels": True, "gold": 1.0, "epochs": 2}
    other.set(**{"distill.students": {"again": again}})
    assert repro(other) == ["distill@again", "evaluate_student@again", "package_student@again"]
    n_train = sum(1 for _ in (other.folder / "data/few/train.jsonl").open())
    assert n_train < read(other, "data/receipts/distill@again.json")["documents"] <= n_train + 4
    assert spacy.load(other.folder / "data/student/again/pipeline").pipe_names[-1] == "trf_textcat"
    wheels = {path.name.split("-")[0] for path in (other.folder / "data/student_package/again").glob("*.whl")}
    assert wheels == {"en_sample_sentiment_again", "spacy_rootstock"}
    said = other.module("records.ledger").stdout
    assert "\nstudent again: test accuracy" in said and "is saved after" not in said
    outs = read(other, "data/receipts/distill@again.json")["outs"]
    other.stage("distill@again")
    assert read(other, "data/receipts/distill@again.json")["outs"] == outs


def test_the_surest_rows_become_labels(project):
    """The same number of rows for each label, if there are so many."""
    settings = students.settings(params.load(project.folder / "params.yaml"), "small")
    rows = [
        {"text": "a", "predicted": "A", "margin": 0.2, "scores": {"A": 0.6, "B": 0.4}},
        {"text": "b", "predicted": "A", "margin": 0.6, "scores": {"A": 0.8, "B": 0.2}},
        {"text": "c", "predicted": "B", "margin": 0.1, "scores": {"A": 0.45, "B": 0.55}},
    ]
    assert [row["text"] for row in distill.surest(rows, 1)] == ["b", "c"]
    assert [row["text"] for row in distill.surest(rows, 5)] == ["b", "a", "c"]
    several = [{"text": "a", "predicted": labels, "margin": 0.1} for labels in ([], ["A"], ["A", "B"], ["A"])]
    assert [row["predicted"] for row in distill.surest(several, 1)] == [[], ["A"], ["A", "B"]]

    def learned(**changes):
        changed = settings.model_copy(update=changes)
        return distill.annotated(project.folder / "data/annotated", ["NEGATIVE", "POSITIVE"], True, changed, Random(0))

    assert len(learned()) == len(CORPUS) and all(0 < soft.max() < 1 for _, soft in learned())
    hard = learned(hard_labels=True, surest=2)
    assert all(sorted(soft.tolist()) == [0, 1] for _, soft in hard)
    assert max(Counter(soft.argmax() for _, soft in hard).values()) == 2


@pytest.mark.slow
def test_a_setting_of_one_student_leaves_the_others_alone(project, tmp_path):
    other = project.copy(tmp_path / "project")
    other.set(**{"distill.students": {**BOTH, "small": {"architecture": "ngrams", "buckets": 4096, "epochs": 1}}})
    assert repro(other) == ["distill@small", "evaluate_student@small", "package_student@small"]
    other.set(**{"distill.students": {}, "annotate.corpora": {}})
    assert repro(other) == []


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("architecture", students.ARCHITECTURES)
def test_a_student_learns_probabilities(architecture, exclusive):
    """Its predictions come near to targets between 0 and 1; an unknown label teaches nothing."""
    few = {
        "architecture": architecture,
        "vectors": 0,
        "buckets": 4096,
        "epochs": 150,
        "learning_rate": 0.01,
        "dropout": 0.0,
    }
    settings = params.Learner(**params.load().distill.model_dump(exclude={"students"}) | few)
    spacy.util.fix_random_seed(0)
    nlp = spacy.blank("en")
    students.add_classifier(nlp, ["A", "B"], exclusive, settings)
    targets = np.array([[0.8, 0.2], [0.3, 0.7], [0.5, 0.5]])
    if not exclusive:
        targets[2] = [0.9, np.nan]
    docs = list(nlp.tokenizer.pipe(["one two", "three four", "five six"]))
    losses = list(students.learn(nlp, docs, targets, settings, 0))
    found = np.array([[doc.cats["A"], doc.cats["B"]] for doc in nlp.pipe(["one two", "three four", "five six"])])
    assert len(losses) == 150 and losses[-1] < losses[0]
    assert np.nanmax(np.abs(found - targets)) < 0.1


def test_scores_of_many_labels_sum_to_one():
    """A row lists the most probable ones."""
    found = distill._soft({"A": 0.6, "B": 0.2}, ["A", "B", "C"], True)
    assert found.tolist() == pytest.approx([0.75, 0.25, 0.0])
    assert distill._soft({"A": 0.6, "B": 0.2}, ["A", "B", "C"], False).tolist() == pytest.approx([0.6, 0.2, 0.0])
