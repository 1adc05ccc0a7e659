import json
from pathlib import Path

import pytest

from benchmarks import data, encode, quality
from benchmarks.__main__ import BENCHMARKS, parse_arguments
from benchmarks.harness import Goal, Measurement
from benchmarks.precisions import available_precisions
from benchmarks.report import Report
from rootstock.encoder import encoder
from tests.conftest import ROOT, SHARED


@pytest.mark.slow
def test_encode_writes_a_report_and_contenders_compute_the_same_vectors(minilm, tmp_path):
    path = ROOT / "data/sample/train.jsonl"
    report, goals = Report("encode"), [Goal("rootstock fp32", "bare fp32", at_least=0.9)]
    contenders = encode.ours({"weights": minilm, "path": path, "n_documents": 20}, ["fp32", "auto"])[:3]
    encode.measure(report, "sample", contenders, path, 2, "bare fp32", goals)
    markdown = report.write(tmp_path)
    written = json.loads((tmp_path / "encode.json").read_text())
    rounds = written["measured"][0]["rounds"]
    assert len(rounds) == 2
    assert all(set(values) == {"rootstock fp32", "rootstock auto", "bare fp32"} for values in rounds)
    assert "| sample: rootstock fp32 / bare fp32 |" in markdown
    assert (tmp_path / "encode.md").read_text() == markdown
    assert (tmp_path / "encode.png").stat().st_size > 1000
    cosines = [float(note.split("cosine ")[1].split()[0]) for note in written["notes"]]
    assert cosines[0] > 0.99999 and cosines[1] > 0.999


@pytest.mark.parametrize(("fast_bf16", "precisions"), [(True, ["fp32", "auto"]), (False, ["fp32"])])
def test_auto_is_measured_only_if_it_differs_from_fp32(fast_bf16, precisions, monkeypatch):
    monkeypatch.setattr(encoder, "has_fast_bf16", lambda device: fast_bf16)
    report = Report("encode")
    assert available_precisions(report) == precisions
    assert len(report.notes) == (not fast_bf16)


def test_ratios_are_taken_within_each_round():
    measurement = Measurement(
        "a", "b", "slow", [{"fast": 4.0, "slow": 2.0}, {"fast": 1.0, "slow": 0.25}, {"fast": 3.0, "slow": 1.0}]
    )
    assert measurement.ratio("fast", "slow") == (3.0, 2.0, 4.0)


def test_the_error_names_the_worker_that_failed(minilm):
    contender, *_ = encode.ours({"weights": minilm, "path": Path("nowhere"), "n_documents": 20}, ["fp32"])
    with contender, pytest.raises(RuntimeError, match="rootstock fp32: the worker exited with status 1"):
        contender.wait_until_ready()


def test_all_benchmarks_are_selected_by_default():
    assert parse_arguments([]).names == BENCHMARKS
    assert parse_arguments(["--full", "sweep", "matmul"]).names == ["sweep", "matmul"]
    with pytest.raises(SystemExit):
        parse_arguments(["matmull"])


def test_each_draw_of_a_task_is_cut_anew_and_no_row_is_in_two_splits():
    task = quality.TASKS["sample"]
    draws = [quality.draw_rows(task, draw) for draw in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    for splits in draws:
        assert {split: len(rows) for split, rows in splits.items()} == {"train": 360, "dev": 90, "test": 150}
        assert len({row["text"] for rows in splits.values() for row in rows}) == 600


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the public data sets are not available in {SHARED}")
@pytest.mark.parametrize("title", [title for title in quality.TASKS if title != "sample"])
def test_draws_of_public_data(title):
    task = quality.TASKS[title]
    splits = quality.draw_rows(task, 1)
    labels = {row["label"] for row in splits["train"]}
    assert splits["test"] == quality.draw_rows(task, 2)["test"] and 500 <= len(splits["test"]) < 2000
    assert not {row["text"] for row in splits["train"]} & {row["text"] for row in splits["dev"]}
    if task.per_class:
        assert len(splits["train"]) == task.per_class * len(labels) >= len(splits["dev"]) > 0
        labelled = {row["text"] for split in ("train", "dev", "test") for row in splits[split]}
        assert splits["unlabelled"] and not {row["text"] for row in splits["unlabelled"]} & labelled
    elif task.rows:
        assert len(splits["train"]) in (task.rows, task.rows - task.rows // 10)


def cell(contender: str, draw: int, test: float) -> dict:
    return {"task": "x", "contender": contender, "draw": draw, "test": test, "dev": 0.5, "seconds": 2.0, "wh": 1.0}


def test_the_table_compares_draw_by_draw():
    cells = [cell("rootstock", 0, 0.8), cell("rootstock", 1, 0.6), cell("other", 0, 0.7), cell("other", 1, 0.4)]
    assert quality.table(cells) == [
        "x: rootstock: test 0.7000 (deviation 0.1414), 2 draws, 2.0 s, 1.00 Wh",
        "x: other: test 0.5500 (deviation 0.2121), 2 draws, 2.0 s, 1.00 Wh; difference from rootstock: -0.1500 (deviation 0.0707)",
    ]


@pytest.mark.slow
def test_cells_are_kept_and_not_measured_again(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "CELLS", tmp_path / "results/quality.jsonl")
    monkeypatch.setattr(data, "WEIGHTS", tiny)
    monkeypatch.setattr(quality, "TASKS", {"sample": quality.Task("sample", 2, epochs=1)})
    quality.report("sample", "rootstock")
    quality.report("sample", "spaCy, bag*")
    written = quality.CELLS.read_text()
    cells = quality.read_cells()
    assert [(cell["contender"], cell["draw"]) for cell in cells] == [
        (name, draw) for name in ("rootstock", "spaCy, bag of words") for draw in (0, 1)
    ]
    for found in cells:
        assert 0.2 < found["test"] < 0.9 and found["seconds"] > 0 and found["wh"] > 0
    notes = quality.report("sample", "[rs][op]*g of words").notes
    assert quality.CELLS.read_text() == written and len(notes) == 2
