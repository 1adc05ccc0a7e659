import json
from pathlib import Path

import pytest

from benchmarks import encode
from benchmarks.__main__ import BENCHMARKS, parse_arguments
from benchmarks.harness import Goal, Measurement
from benchmarks.precisions import available_precisions
from benchmarks.report import Report
from rootstock.encoder import encoder
from tests.conftest import ROOT


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
