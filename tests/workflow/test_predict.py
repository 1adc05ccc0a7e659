"""`python -m workflow.predict`: rows in, rows with predictions out."""

import json
import subprocess
import sys

import pytest
import spacy

ROWS = [{"text": "Good value.", "n": 1}, {"text": "It broke.", "label": "NEGATIVE", "when": {"day": 3}}]


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory):
    return finished.copy(tmp_path_factory.mktemp("predict") / "project")


def predict(project, *arguments, stdin="", check=True):
    """The lines of stdout as JSON, stderr, and the exit status."""
    done = subprocess.run(
        ["python", "-m", "workflow.predict", *map(str, arguments)],
        input=stdin.encode(), capture_output=True, cwd=project.folder, env=project.environment(),
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.decode().splitlines()], done.stderr.decode(), done.returncode


def jsonl(rows):
    return "\n".join(map(json.dumps, rows))


def test_rows_keep_their_columns_and_get_a_prediction(project):
    lines, errors, _ = predict(project, "base", stdin=jsonl(ROWS))
    assert [{k: v for k, v in line.items() if k not in ("predicted", "scores", "margin")} for line in lines] == ROWS
    assert all(line["predicted"] in line["scores"] and len(line["scores"]) == 2 for line in lines) and not errors


def test_predictions_equal_those_of_evaluate(project):
    evaluated = [json.loads(line) for line in (project.folder / "data/evaluation/base/test.jsonl").open()]
    test = project.folder / "data/few/test.jsonl"
    for model in ("base", "data/model/base/pipeline"):
        for line, expected in zip(predict(project, model, test)[0], evaluated, strict=True):
            assert [line["predicted"]] == expected["predicted"]
            assert line["scores"] == pytest.approx(expected["scores"], abs=2e-6)


def test_files_of_all_formats(project, tmp_path):
    (tmp_path / "a.csv").write_text("n,text\n1,Good value.\n")
    (tmp_path / "b.txt").write_text("It broke.\n")
    lines = predict(project, "base", tmp_path / "a.csv", tmp_path / "b.txt")[0]
    assert [(line["text"], line.get("n")) for line in lines] == [("Good value.", "1"), ("It broke.", None)]
    assert predict(project, "base", "--format", "txt", stdin="Good value.\nIt broke.\n")[0][1] == lines[1]


def test_a_bad_row_is_named_and_left_out(project):
    lines, errors, status = predict(project, "base", stdin=jsonl([ROWS[0], {"n": 1}, ROWS[1]]), check=False)
    assert [line["text"] for line in lines] == ["Good value.", "It broke."] and status == 1
    assert errors == "/dev/stdin:2: it has no text, only 'n'\npredict: bad rows that were left out: 1\n"


@pytest.mark.parametrize(
    ("arguments", "stdin", "says"),
    [
        (["hot"], "", "hot: no point of the sweep that is trained, no folder of a pipeline, and no installed package"),
        (["base", "rows.xlsx"], "", "rows.xlsx: expected one of .jsonl, .csv, .tsv, .parquet, .txt"),
        (["base", "none.csv"], "", "none.csv: cannot be read (No such file or directory)"),
        (["base"], '{"text": "x", "scores": 1}', "/dev/stdin:1: it has a column 'scores' already: rename it"),
        (["base", "--format", "parquet"], "x", "/dev/stdin: Parquet cannot be read from a pipe: name a file"),
        (["models:/nothing@best"], "", "MLflow at sqlite:///mlflow.db: "),
        (["data/wordpieces"], "", "data/wordpieces: no point"),
        (["numpy"], "", "numpy: spaCy cannot load it ("),
        (["data/vectors/none"], "", "data/vectors/none: no point"),
    ],
)  # fmt: skip
def test_messages(project, arguments, stdin, says):
    _, errors, status = predict(project, *arguments, stdin=stdin, check=False)
    assert status == 1 and errors.startswith(f"predict: error: {says}") and errors.count("\n") == 1


def test_odd_columns(project):
    """Bad characters in any column, a value that JSON lacks, a text that is longer than spaCy's limit for parsers."""
    long = f"{'a' * 5000} " * 201
    stdin = b'{"text": "a", "note": "caf\xe9"}\n{"text": "b", "note": "\\ud83d"}\n{"text": "c", "n": NaN}\n'
    done = subprocess.run(
        ["python", "-m", "workflow.predict", "base"], input=stdin + jsonl([{"text": long}]).encode(),
        capture_output=True, cwd=project.folder, env=project.environment(),
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [(line["text"], line.get("n", "none")) for line in lines] == [("c", None), (long, "none")]
    said = done.stderr.decode().splitlines()
    assert [line.partition(": ")[0] for line in said] == [
        "/dev/stdin:1",
        "/dev/stdin:2",
        "predict",
    ] and "not UTF-8" in said[0]


@pytest.mark.slow
def test_a_model_without_labels_is_one_line_from_several_processes(project):
    arguments = ("data/weights_only", "--processes", "2")
    nlp = spacy.load(project.folder / "data/model/base/pipeline")
    nlp.remove_pipe("trf_textcat")
    nlp.to_disk(project.folder / "data/weights_only")
    _, errors, status = predict(project, *arguments, stdin=jsonl(ROWS), check=False)
    assert status == 1 and errors.splitlines()[-1].startswith(
        "predict: error: the pipeline (trf_wordpiecer, trf_tok2vec)"
    )
    assert "Traceback" not in errors


def test_a_damaged_model_is_not_used(project, tmp_path):
    broken = project.copy(tmp_path / "project")
    path = broken.folder / "data/model/base/pipeline/trf_textcat/head.safetensors"
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(data)
    _, errors, status = predict(broken, "base", stdin=jsonl(ROWS), check=False)
    assert status == 1 and "data/model/base: damaged, or edited, since finetune@base wrote it" in errors


def test_a_reader_that_stops_early_is_no_error(project):
    rows = jsonl([{"text": f"Row {i}."} for i in range(5000)])
    command = "python -m workflow.predict base | head -n 1"
    done = subprocess.run(
        command, shell=True, input=rows.encode(), capture_output=True, cwd=project.folder, env=project.environment()
    )
    assert json.loads(done.stdout)["text"] == "Row 0." and done.stderr == b""


@pytest.mark.slow
def test_a_model_of_mlflow_and_an_installed_package(project, tmp_path):
    project.module("records.ledger")
    expected = predict(project, "base", stdin=jsonl(ROWS))[0]
    assert predict(project, "models:/en_sample_sentiment@best", stdin=jsonl(ROWS))[0] == expected
    site = tmp_path / "site"
    [wheel] = (project.folder / "data/package").glob("en_*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(pip, check=True)
    env = project.environment()
    env["PYTHONPATH"] += f":{site}"
    done = subprocess.run(
        ["python", "-m", "workflow.predict", "en_sample_sentiment"],
        input=jsonl(ROWS), text=True, capture_output=True, cwd=project.folder, env=env,
    )  # fmt: skip
    assert [json.loads(line) for line in done.stdout.splitlines()] == expected, done.stderr
