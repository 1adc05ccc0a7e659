import json
from pathlib import Path

import pytest

from benchmarks import encode
from benchmarks.__main__ import NAMES, arguments
from benchmarks.precisions import precisions
from benchmarks.report import Report
from benchmarks.turns import Goal, Measured
from rootstock.encoder import encoder
from tests.conftest import ROOT


def test_contenders_take_turns_and_agree(minilm, tmp_path):
    path = ROOT / "data/sample/train.jsonl"
    report, goals = Report("encode"), [Goal("rootstock fp32", "bare fp32", least=0.9)]
    contenders = encode.ours({"weights": minilm, "path": path, "documents": 20}, ["fp32", "auto"])[:3]
    encode.measure(report, "sample", contenders, path, 2, "bare fp32", goals)
    table = report.write(tmp_path)
    written = json.loads((tmp_path / "encode.json").read_text())
    rounds = written["measured"][0]["rounds"]
    assert len(rounds) == 2
    assert all(set(values) == {"rootstock fp32", "rootstock auto", "bare fp32"} for values in rounds)
    assert "| sample: rootstock fp32 over bare fp32 |" in table
    assert (tmp_path / "encode.md").read_text() == table
    assert (tmp_path / "encode.png").stat().st_size > 1000
    cosines = [float(note.split("cosine ")[1].split()[0]) for note in written["notes"]]
    assert cosines[0] > 0.99999 and cosines[1] > 0.999


@pytest.mark.parametrize(("fast", "wanted"), [(True, ["fp32", "auto"]), (False, ["fp32"])])
def test_auto_takes_part_where_it_is_not_fp32(fast, wanted, monkeypatch):
    monkeypatch.setattr(encoder, "has_fast_bf16", lambda device: fast)
    report = Report("encode")
    assert precisions(report) == wanted
    assert len(report.notes) == (not fast)


def test_ratios_are_those_within_a_round():
    measured = Measured(
        "a", "b", "slow", [{"fast": 4.0, "slow": 2.0}, {"fast": 1.0, "slow": 0.25}, {"fast": 3.0, "slow": 1.0}]
    )
    assert measured.ratio("fast", "slow") == (3.0, 2.0, 4.0)


def test_a_worker_that_fails_is_named(minilm):
    contender, *_ = encode.ours({"weights": minilm, "path": Path("nowhere"), "documents": 20}, ["fp32"])
    with contender, pytest.raises(RuntimeError, match="rootstock fp32 ended with 1"):
        contender.ready()


def test_without_a_name_all_are_run():
    assert arguments([]).names == NAMES
    assert arguments(["--full", "sweep", "floor"]).names == ["sweep", "floor"]
    with pytest.raises(SystemExit):
        arguments(["flor"])
