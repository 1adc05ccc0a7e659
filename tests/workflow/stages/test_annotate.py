"""Unlabelled text through the DAG: slices are jobs, and only new ones are computed."""

import gzip
import json

import pytest
import yaml
from mlflow import MlflowClient

from tests.workflow.project import executed, stale_stages

TEXTS = ["Good value for the money.", "It broke on the second day.", "Nobody answered the phone."] * 4


def write(project, name, texts, mode="w"):
    folder = project.folder / "data/unlabelled"
    folder.mkdir(exist_ok=True)
    with (folder / name).open(mode) as file:
        file.writelines(json.dumps({"text": text, "id": i}) + "\n" for i, text in enumerate(texts))


def repro(project):
    """The stages that were run."""
    project.module("partition")
    return executed(project.call("dvc", "repro").stdout)


def annotated(project):
    """The rows of all slices, in order."""
    names = yaml.safe_load((project.folder / "workflow/slices.yaml").read_text())["slices"]
    lines = []
    for name in names:
        with gzip.open(project.folder / "data/annotated" / name / "rows.jsonl.gz", "rt", encoding="utf-8") as file:
            lines += list(map(json.loads, file))
    return lines


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    project = finished.copy(tmp_path_factory.mktemp("annotate") / "project")
    project.set(**{"annotate.corpora": {"reviews": "data/unlabelled"}, "annotate.slice_rows": 5})
    write(project, "a.jsonl", TEXTS)
    project.first = repro(project)
    return project


def test_every_row_is_annotated_once_with_all_its_columns(project):
    assert len(project.first) == 3 and all(name.startswith("annotate@reviews_") for name in project.first)
    lines = annotated(project)
    assert [(line["text"], line["id"]) for line in lines] == list(zip(TEXTS, range(12), strict=True))
    predicted = project.module("predict", "base", "data/unlabelled/a.jsonl").stdout
    assert lines == list(map(json.loads, predicted.splitlines()))
    assert all(0 <= line["margin"] <= 1 and len(line["scores"]) == 2 for line in lines)


def test_a_slice_is_summed_up(project):
    reports = [
        json.loads(path.read_text()) for path in sorted((project.folder / "data/annotated").glob("*/report.json"))
    ]
    assert [report["documents"] for report in reports] == [5, 5, 2] and [r["first_row"] for r in reports] == [1, 6, 11]
    lines = annotated(project)[:5]
    assert sum(reports[0]["labels"].values()) == sum(reports[0]["confidence"]) == 5
    assert reports[0]["labels"] == {
        k: n for k in ("NEGATIVE", "POSITIVE") if (n := sum(x["predicted"] == k for x in lines))
    }


@pytest.mark.slow
def test_the_text_may_be_in_another_column(project, tmp_path):
    """In a corpus, and in what `predict` reads. Another column that is called text is kept."""
    other = project.copy(tmp_path / "project")
    other.set(**{"data.text": "review", "annotate.corpora": {"named": "data/named.csv"}})
    (other.folder / "data/named.csv").write_text("text,review\n1,Fine.\n2,Bad.\n")
    other.module("partition")
    [name] = yaml.safe_load((other.folder / "workflow/slices.yaml").read_text())["slices"]
    other.stage(f"annotate@{name}")
    lines = annotated(other)
    assert [(line["text"], line["(text)"]) for line in lines] == [("Fine.", "1"), ("Bad.", "2")]
    assert lines == list(map(json.loads, other.module("predict", "base", "data/named.csv").stdout.splitlines()))


@pytest.mark.slow
def test_the_ledger_sums_up_a_corpus(project, tmp_path):
    recorded = project.copy(tmp_path / "project")
    said = recorded.module("records.ledger").stdout
    lines = annotated(recorded)
    shares = {label: sum(line["predicted"] == label for line in lines) / 12 for label in ("NEGATIVE", "POSITIVE")}
    listed = ", ".join(f"{label} {share:.0%}" for label, share in sorted(shares.items(), key=lambda x: -x[1]) if share)
    assert f"\nreviews: 12 documents in 3 slices: {listed}\n" in said and "Wh" in said
    assert [line.split()[0] for line in said.splitlines() if line.startswith("annotate@")] == ["annotate@reviews"]
    assert "MLflow: annotate reviews: recorded run" in said
    again = recorded.module("records.ledger").stdout
    assert "MLflow: annotate reviews: nothing new, this is run" in again
    uri = f"sqlite:///{recorded.folder}/mlflow.db"
    client = MlflowClient(uri, registry_uri=uri)
    [run] = client.search_runs(["1"], "attributes.run_name = 'annotate reviews'")
    assert run.data.metrics["documents"] == 12 and run.info.status == "FINISHED"
    found = {label: run.data.metrics.get(f"share/{label}", 0.0) for label in shares}
    assert found == pytest.approx(shares)
    receipts = [json.loads(path.read_text()) for path in (recorded.folder / "data/receipts").glob("annotate@*.json")]
    assert run.data.metrics["energy/wh_per_1000"] == pytest.approx(1e6 * sum(r["kwh"] for r in receipts) / 12)
    elsewhere = json.loads(next((recorded.folder / "data/receipts").glob("annotate@*.json")).read_text())["run_id"]
    (recorded.folder / f"data/ledger/spent/{elsewhere}.json").unlink()
    assert ", 1 of 3 slices reused" in recorded.module("records.ledger").stdout
    page = recorded.module("records.report") and (recorded.folder / "data/report.html").read_text()
    assert (
        "; 1 of 3 slices reused" in page
        and "<h2>Annotated text</h2>" in page
        and "annotate@reviews" in page
        and "annotate@reviews_" not in page
    )


def test_only_what_is_new_is_computed(project, tmp_path):
    grown = project.copy(tmp_path / "project", keep_runs=True)
    assert repro(grown) == []
    before = {path.parent.name: path.read_bytes() for path in (grown.folder / "data/annotated").glob("*/rows.jsonl.gz")}
    write(grown, "a.jsonl", TEXTS[:4], "a")  # fills the last slice, and begins another
    write(grown, "0.jsonl", TEXTS[:3])  # comes before the other file
    ran = repro(grown)
    assert len(ran) == 3 and len(annotated(grown)) == 19
    kept = sorted(before)[:2]
    assert not set(kept) & {name.partition("@")[2] for name in ran}
    for name in kept:
        assert (grown.folder / "data/annotated" / name / "rows.jsonl.gz").read_bytes() == before[name]
    (grown.folder / "data/unlabelled/0.jsonl").unlink()
    assert repro(grown) == [] and len(annotated(grown)) == 16
    left = {path.name for path in (grown.folder / "data/annotated").iterdir()}
    assert left == yaml.safe_load((grown.folder / "workflow/slices.yaml").read_text())["slices"].keys()


def test_no_shell_sees_the_name_of_a_file(project, tmp_path):
    odd = project.copy(tmp_path / "project")
    name = "a 'b' \"c\"; touch X; $(touch Y) ${seed} `touch Z` # - {}.jsonl"
    write(odd, name, TEXTS[:2])
    assert len(repro(odd)) == 1 and len(annotated(odd)) == 14
    odd.call("snakemake", "--profile", "workflow/profiles/default")
    assert not {path.name for path in odd.folder.iterdir()} & {"X", "Y", "Z"}


def test_a_damaged_list_is_made_anew(project, tmp_path):
    """As a merge leaves it, or a power failure."""
    damaged = project.copy(tmp_path / "project")
    before = (damaged.folder / "workflow/slices.yaml").read_text()
    (damaged.folder / "workflow/slices.yaml").write_text(f"<<<<<<< mine\n{before}=======\n{before}>>>>>>> theirs\n")
    (damaged.folder / "data/slices.json").write_text("")
    assert repro(damaged) == [] and (damaged.folder / "workflow/slices.yaml").read_text() == before


@pytest.mark.slow
def test_another_point_that_is_not_better_leaves_the_slices_alone(project, tmp_path):
    other = project.copy(tmp_path / "project")
    other.set(sweep={"base": {}, "twin": {"seed": 0}})  # equally good, so the first is the best
    ran = repro(other)
    best = json.loads((other.folder / "data/comparison/best.json").read_text())["point"]
    assert "finetune@twin" in ran and best == "base" and not [name for name in ran if name.startswith("annotate")]


@pytest.mark.slow
def test_a_bad_row_stops_or_is_counted(project, tmp_path):
    bad = project.copy(tmp_path / "project")
    with (bad.folder / "data/unlabelled/a.jsonl").open("a") as file:
        file.write('{"id": 1}\n')
    bad.module("partition")
    done = bad.call("dvc", "repro", check=False)
    assert done.returncode and "data/unlabelled/a.jsonl:13: it has no text" in done.stdout + done.stderr
    bad.set(**{"data.on_bad_row": "skip"})
    assert len([name for name in repro(bad) if name.startswith("annotate")]) == 3
    reports = [json.loads(path.read_text()) for path in (bad.folder / "data/annotated").glob("*/report.json")]
    assert sum(r["skipped"] for r in reports) == 1 and sum(r["documents"] for r in reports) == 12


@pytest.mark.slow
def test_a_corpus_that_is_edited_must_be_cut_again(project, tmp_path):
    edited = project.copy(tmp_path / "project")
    write(edited, "a.jsonl", ["Other.", *TEXTS[1:]])
    done = edited.stage(project.first[0], check=False)
    assert done.returncode == 1 and "rows that were there have changed: `make repro` cuts it anew" in done.stderr
    assert repro(edited) == [project.first[0]]


def test_a_clone_without_the_corpus_has_nothing_to_compute(project, tmp_path):
    clone = project.copy(tmp_path / "project")
    for path in (clone.folder / "data/unlabelled").iterdir():
        path.unlink()
    (clone.folder / "data/unlabelled").rmdir()
    said = clone.module("partition").stderr
    assert said == "data/unlabelled is not here: the 3 slices of reviews stay as workflow/slices.yaml has them\n"
    assert stale_stages(clone) == set() and executed(clone.call("dvc", "repro").stdout) == []


def test_no_corpus_no_stage(project, tmp_path):
    none = project.copy(tmp_path / "project")
    none.set(**{"annotate.corpora": {}})
    assert repro(none) == []
    assert (none.folder / "workflow/slices.yaml").read_text().endswith("slices: {}\n")
    none.set(**{"annotate.corpora": {"other": "data/nowhere"}})
    done = none.module("partition", check=False)
    assert done.returncode == 1
    assert done.stderr == "error: params.yaml: annotate.corpora.other is 'data/nowhere': not found\n"


@pytest.mark.slow
def test_snakemake_computes_the_same(project, tmp_path):
    other = project.copy(tmp_path / "project")
    for path in (other.folder / "data/annotated").iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    other.call("snakemake", "--profile", "workflow/profiles/default")
    assert annotated(other) == annotated(project)
    for path in (project.folder / "data/annotated").glob("*/rows.jsonl.gz"):
        assert (other.folder / path.relative_to(project.folder)).read_bytes() == path.read_bytes()
