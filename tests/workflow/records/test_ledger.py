"""What the ledger records after a part of the DAG, and which scores it takes for comparable."""

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from workflow.engine import dag, params
from workflow.engine.errors import Problem
from workflow.files import digest, write_json
from workflow.records import costs, ledger, report

FIGURES = {"seconds": 2.0, "kwh": 1e-3, "kwh_low": 5e-4, "kwh_high": 2e-3, "grid_g_per_kwh": 400.0, "method": "RAPL"}


def change(**settings) -> dict[str, dag.Stage]:
    path = Path("params.yaml")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))
    return dag.load()


def compute(*names: str, content: str = "a") -> None:
    """As if these stages had run, and left this content."""
    for name in names:
        stages, receipts = dag.load(), costs.receipts()
        used = {path: receipts[need]["outs"] for need in dag.needs(stages[name], stages) for path in stages[need].outs}
        deps = {path: outs[path] for path, outs in used.items() if path in outs}
        folder, *others, receipt = map(Path, stages[name].outs)
        for path in (folder, *others, receipt.parent):
            path.mkdir(parents=True, exist_ok=True)
        made = content
        if name.startswith("package"):
            (folder / f"en_{name}-0.1.0-py3-none-any.whl").write_text(content)
            made = digest(folder)  # the ledger compares it with the wheels
        facts = {"stage": name, "run_id": name, "steps": 1, "steps_planned": 1, "started": "2026"}
        write_json(
            receipt,
            {**facts, **FIGURES, "deps": deps, "outs": {str(folder): made, **{str(path): content for path in others}}},
        )
        if name.startswith("evaluate"):
            split = {"documents": 4, "accuracy": 0.5, "accuracy_low": 0.1, "accuracy_high": 0.9, "macro_f1": 0.5}
            write_json(folder / "metrics.json", {"dev": split, "test": split})
        if name == "compare":
            write_json(folder / "best.json", {"point": "hot", "test_p": {"base": 0.25}, "unclear": ["base"]})


@pytest.fixture
def recorded(tmp_path, monkeypatch) -> list[str]:
    """A project with two points of the sweep, after the whole DAG. RETURNS: the points that the ledger records."""
    (tmp_path / "workflow").mkdir()
    for name in ("dvc.yaml", "params.yaml", "workflow/versions.yaml", "workflow/slices.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    compute(*change(sweep={"base": {}, "hot": {"seed": 1}}))
    points: list[str] = []
    monkeypatch.setattr(ledger, "record", lambda point, *_: (points.append(point), ("a run", True))[1])
    monkeypatch.setattr(ledger.results, "keep_verdicts", lambda experiment, run_ids: None)
    monkeypatch.setattr(ledger, "write_card", lambda folder, receipts: None)
    monkeypatch.setattr(ledger.view, "page", lambda experiment: "http://")
    return points


def test_after_the_whole_dag_nothing_is_missing(recorded, capsys):
    ledger.main()
    output, errors = capsys.readouterr()
    assert recorded == ["base", "hot"] and errors == ""
    assert "\nhot (best on dev)\n" in output and 'spacy.load("en_package")' in output and "(no head:" in output


def test_every_attempt_counts_once(recorded, capsys):
    """Attempts that failed, were killed, or run now leave a record, too. Each has the energy of one attempt."""
    [receipt] = [receipt for stage, receipt in costs.receipts().items() if stage == "finetune@base"]
    start = {**receipt, **dict.fromkeys(("kwh", "kwh_low", "kwh_high", "seconds"), 0.0), "method": "not measured"}
    del start["outs"]
    attempts = {
        "killed at once": {**start, "failed": True},
        "killed": {**start, **FIGURES, "kwh": 3e-3, "kwh_high": 3e-3, "failed": True},
        "stopped": {**receipt, "kwh": 2e-3, "failed": True},
        receipt["run_id"]: receipt,  # the one that succeeded
    }
    for run_id, record in attempts.items():
        Path("data/ledger/spent").mkdir(parents=True, exist_ok=True)
        write_json(Path(f"data/ledger/spent/{run_id}.json"), {**record, "run_id": run_id})
    finished = receipt | {"kwh": 6e-3, "seconds": 6.0}  # the receipt has the sum of all
    write_json(Path("data/receipts/finetune@base.json"), finished)
    for _ in range(2):
        ledger.main()
        output = capsys.readouterr().out
        assert re.search(r"spent here +6\.0 +6\.000 +1\.500 to 7\.000 +in 4 stage runs\n", output)
        assert "\n                   attempts that did not finish: 3, 5.000 Wh\n" in output
        assert re.search(r"finetune@base +6\.0 +6\.000 .* RAPL\n", output), "computed here"
        others = len(dag.load()) - 1
        assert f"by reusing {others} results" in output


def test_a_receipt_of_others_steers_no_terminal(recorded, capsys):
    path = Path("data/receipts/encode.json")
    write_json(path, json.loads(path.read_text()) | {"method": "\x1b[2JRAPL\r\n"})
    ledger.main()
    assert "  \\x1b[2JRAPL\\r\\n, reused\n" in capsys.readouterr().out


PARTS = {
    "one point": (["evaluate@hot", "compare"], ["base"], "evaluate@hot, compare, package:"),
    "a fine-tuning": (["evaluate@base", "evaluate@hot"], [], "evaluate@base, evaluate@hot, compare, package:"),
    "no comparison": (["compare"], ["base", "hot"], "compare, package:"),
    "no wheel": (["package"], ["base", "hot"], "package:"),
    "no vectors": (["package_weights"], ["base", "hot"], "package_weights:"),
    "nothing": (list(dag.load(ROOT)), [], "download_weights, sentencize@train,"),
}


@pytest.mark.parametrize(("lacking", "points", "said"), PARTS.values(), ids=PARTS.keys())
@pytest.mark.parametrize("lost", ["receipt", "result"])
def test_a_part_of_the_dag(recorded, capsys, lacking, points, said, lost):
    """What is complete is recorded, and one line says what is missing; the report needs everything."""
    for name in lacking:
        folder, *_, receipt = map(Path, dag.load()[name].outs)
        shutil.rmtree(folder) if lost == "result" else receipt.unlink()
    ledger.main()
    output, errors = capsys.readouterr()
    assert recorded == points and ("best on dev" in output) == ("compare," not in said and "download" not in said)
    [line] = errors.splitlines()
    assert line.startswith(f"ledger: no current result of {said}") and line.endswith("run `dvc repro` to the end first")
    with pytest.raises(Problem, match=f"^no current result of {said}"):
        report.main()


NEWER = {
    "a model": (["finetune@hot"], "evaluate@hot (computed from a different data/model/hot), compare, package"),
    "an evaluation": (["evaluate@hot"], "compare (computed from a different data/evaluation/hot), package"),
    "pieces": (["wordpiece@test"], "encode (computed from a different data/wordpieces/test), finetune@base,"),
}


@pytest.mark.parametrize(("names", "said"), NEWER.values(), ids=NEWER.keys())
def test_stages_after_a_newer_result_are_not_current(recorded, names, said):
    """As after `snakemake ... evaluate_hot` alone."""
    compute(*names, content="b")
    assert ", ".join(ledger.gaps(dag.load(), costs.receipts()).values()).startswith(said)


def test_points_of_the_sweep_that_were_added_or_removed(recorded, capsys):
    """Nothing is computed again yet."""
    change(sweep={"base": {}, "hot": {"seed": 1}, "new": {"seed": 2}})
    ledger.main()
    assert recorded == ["base", "hot"]
    assert "no current result of finetune@new, evaluate@new, compare, package:" in capsys.readouterr().err
    recorded.clear()
    compute("finetune@new", "evaluate@new")
    ledger.main()
    assert recorded == ["base", "hot", "new"]
    assert "no current result of compare (computed from a different data/" in capsys.readouterr().err
    recorded.clear()
    change(sweep={"base": {}})  # hot, the best, is gone
    ledger.main()
    assert recorded == ["base"] and "no current result of compare" in capsys.readouterr().err


def test_names_are_those_of_the_settings_of_today(recorded, monkeypatch):
    """All other settings are those that the result was computed with."""
    folder = Path.cwd()
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    before = params.load().model_dump()
    receipts = {stage: {**receipt, "params": before, "git_commit": ""} for stage, receipt in costs.receipts().items()}
    receipts["sentencize@train"]["deps"][before["data"]["folder"]] = "data"
    write_json(Path("data/weights/weights.json"), {"sha256": {"model.safetensors": "weights"}})
    for split in ("dev", "test"):
        Path(f"data/evaluation/hot/{split}.jsonl").touch()
    finetune = {**before["finetune"], "epochs": 9}
    change(tracking={"experiment": "now"}, package={**before["package"], "name": "now"}, finetune=finetune)
    given: list = []
    monkeypatch.setattr(ledger.results, "record", lambda *arguments: given.extend(arguments) or ("a run", True))
    ledger.record("hot", receipts, params.load(), "the best on dev")
    assert given[0]["tracking"]["experiment"] == given[0]["package"]["name"] == "now"
    assert given[0]["seed"] == 1 and given[0]["finetune"] == before["finetune"]
    assert {"dev.sha256", "test.sha256"} <= given[1].keys()


def test_the_verdict_on_a_point():
    comparison = {"point": "hot", "test_p": {"base": 0.25, "cold": 0.0312}, "unclear": ["base"]}
    assert ledger.verdict("hot", comparison) == "the best on dev" and ledger.verdict("hot", {}) == ""
    assert ledger.verdict("hot", {"point": "hot", "test_p": {}, "unclear": []}) == "", "there is no other"
    assert ledger.verdict("base", comparison) == "p 0.25 on test against hot (McNemar's test), within noise"
    assert ledger.verdict("cold", comparison) == "p 0.031 on test against hot (McNemar's test)"


def test_all_points_are_scored_on_the_same_rows(recorded):
    """Dev may be held out by the seed: by that of params.yaml, whatever seed a point has."""
    stages = dag.load()
    for split in ("dev", "test"):
        assert "sweep" not in str(stages[f"sentencize@{split}"].params)
        assert all(f"data/wordpieces/{split}" in stages[f"evaluate@{point}"].deps for point in ("base", "hot"))


def rows_digest(tmp_path: Path, rows: list[dict], exclusive: bool = True) -> str:
    (tmp_path / "dev.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return ledger.rows_digest(tmp_path, "dev", {"data": {"exclusive": exclusive}})


def test_scores_are_comparable_if_texts_and_labels_are_the_same(tmp_path):
    """Whatever the rows are called, their order, and what was predicted."""
    a = {"row": "train.jsonl:1", "text": "good", "gold": {"P": 1, "N": 0}, "scores": {"P": 0.5, "N": 0.5}}
    b = {**a, "text": "bad", "gold": {"P": 0, "N": 1}}
    same = [{**b, "row": "dev.csv:7", "scores": {}}, {**a, "gold": {"N": 0, "P": 1}}]
    assert rows_digest(tmp_path, [a, b]) == rows_digest(tmp_path, same)
    others = [[a], [a, b, b], [a, {**b, "text": "bad!"}], [a, {**b, "gold": a["gold"]}]]
    digests = [
        rows_digest(tmp_path, [a, b]),
        rows_digest(tmp_path, [a, b], False),
        *(rows_digest(tmp_path, rows) for rows in others),
    ]
    assert len(set(digests)) == len(digests)
