"""What a stage does around its work."""

import errno
import json
import os
import re
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from codecarbon import OfflineEmissionsTracker
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from rootstock.weights.weights import WeightsError
from tests import soak
from tests.conftest import ROOT
from workflow.corpus import shards
from workflow.engine import attempt, dag, params, stage
from workflow.engine.errors import Problem

DVC_YAML = """
stages:
  before:
    cmd: python -m before
    outs: [data/before, data/receipts/before.json]
  toy:
    cmd: python -m toy
    deps: [code.py, data/before]
    params: [a]
    outs: [data/toy, data/receipts/toy.json]
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A function that runs a stage: `run` writes files with these names."""
    settings = params.load(ROOT / "params.yaml")
    monkeypatch.chdir(tmp_path)
    for name, text in {"code.py": "a", "dvc.yaml": DVC_YAML, "params.yaml": "a: 1\nb: 1\n"}.items():
        (tmp_path / name).write_text(text)

    def execute(*names, stage="toy", then=lambda outputs: None):
        """Run a stage: it writes files with these names, then calls a function."""

        def run(settings, inputs, outputs):
            for name in names:
                (outputs[stage] / name).write_text("x")
            then(outputs)

        stages = dag.load()
        attempt.execute(stages[stage], stages, run, settings)

    execute("one", "other", stage="before")
    for record in attempt.SPENT.iterdir():
        record.unlink()
    return SimpleNamespace(execute=execute, out=tmp_path / "data/toy", receipts=tmp_path / "data/receipts")


def fail(outputs):
    raise ZeroDivisionError


def spent() -> list[dict]:
    """The records of all attempts, oldest first."""
    records = [json.loads(path.read_text()) for path in attempt.SPENT.glob("*.json")]
    return sorted(records, key=lambda record: record["started"])


def test_outputs_are_made_anew(toy):
    """With fewer rows than before there are fewer shards."""
    toy.execute("00000.spacy", "00001.spacy")
    toy.execute("00000.spacy")
    assert [path.name for path in shards.files(toy.out)] == ["00000.spacy"]


def test_a_receipt_that_links_into_the_cache_is_replaced(toy, tmp_path):
    toy.execute("a")
    receipt = toy.receipts / "toy.json"
    cached = receipt.rename(tmp_path / "cached")
    before = cached.read_bytes()
    receipt.symlink_to(cached)
    toy.execute("b")
    assert cached.read_bytes() == before and not receipt.is_symlink()


def test_a_failed_stage_leaves_neither_outputs_nor_an_old_receipt(toy):
    toy.execute("a")
    with pytest.raises(ZeroDivisionError):
        toy.execute("a", then=fail)
    assert not toy.out.exists() and not (toy.receipts / "toy.json").exists()


def test_a_meter_that_fails_costs_no_result(toy, monkeypatch):
    def fail(tracker):
        raise OSError("the meter is broken")

    monkeypatch.setattr(OfflineEmissionsTracker, "stop", fail)
    toy.execute("model")
    assert (toy.out / "model").is_file()
    receipt = json.loads((toy.receipts / "toy.json").read_text())
    assert receipt["method"] == "not measured" and "failed" not in receipt


def test_the_receipt_says_what_the_result_was_made_of(toy):
    toy.execute("a")
    receipt = json.loads((toy.receipts / "toy.json").read_text())
    assert receipt["made_by"] == {"cmd": "python -m toy", "params": {"params.yaml": {"a": 1}}}
    assert list(receipt["deps"]) == ["code.py", "data/before"] and list(receipt["outs"]) == ["data/toy"]


EDITS = {"code.py": ("code.py", "b"), "a in params.yaml": ("params.yaml", "a: 2\nb: 1\n")}


@pytest.mark.parametrize("named", EDITS)
def test_what_changes_while_a_stage_runs_is_noticed(toy, named):
    """DVC would record the new values for a result of the old ones."""
    file, text = EDITS[named]
    with pytest.raises(Problem, match=f"^{named} changed while this stage ran"):
        toy.execute("a", then=lambda outputs: Path(file).write_text(text))
    assert not toy.out.exists() and not (toy.receipts / "toy.json").exists()


FILES = ["data/before/one", "data/before/other", "data/receipts/before.json"]


@soak.fuzz("results of earlier stages", many=5000)
@given(st.sampled_from(FILES), st.integers(0, 10_000), st.sampled_from(["flipped", "cut", "gone"]))
def test_a_damaged_result_of_an_earlier_stage_is_noticed_and_made_anew(toy, file, position, damage):
    """DVC and Snakemake look at times and sizes only. What the check leaves makes both run the earlier stage again."""
    path, receipt = Path(file), toy.receipts / "before.json"
    content, said, stages = path.read_bytes(), receipt.read_bytes(), dag.load()
    changed = bytearray(content)
    changed[position % len(content)] ^= 1 << position % 8
    path.write_bytes(changed if damage == "flipped" else content[: position % len(content)])
    os.utime(path, (0, 0))
    if damage == "gone":
        path.unlink()
    try:
        attempt._check_inputs(stages["toy"], stages, attempt._origin(stages["toy"], stages)["deps"])
    except Problem as problem:
        named = ("data/before: ", f"{file}: ")  # a receipt with another digest may be right
        assert str(problem).startswith(named) and str(problem).endswith("The next `make repro` makes it anew")
        assert not Path("data/receipts/before.json").exists() or path.stat().st_mtime > 0
    else:  # the change is in a figure of the receipt
        assert json.loads(path.read_bytes())["outs"] == json.loads(content)["outs"]
    finally:
        path.write_bytes(content)
        receipt.write_bytes(said)


def test_other_settings_may_change_while_a_stage_runs(toy):
    toy.execute("a", then=lambda outputs: Path("params.yaml").write_text("a: 1\nb: 2\n"))
    assert (toy.out / "a").is_file()


def test_a_stage_that_is_removed_while_it_runs_is_noticed(toy):
    with pytest.raises(Problem, match="no such stage any more"):
        toy.execute("a", then=lambda outputs: Path("dvc.yaml").write_text("stages: {}"))


def test_every_attempt_is_on_record_while_it_runs(toy, monkeypatch):
    """SIGKILL leaves what is there."""
    monkeypatch.setattr(attempt, "HEARTBEAT", 0.05)
    seen = []

    def look(outputs):
        for _ in range(2):
            seen.extend(spent())
            time.sleep(0.2)

    toy.execute("a", then=look)
    first, later = seen
    assert first["failed"] and later["failed"] and first["run_id"] == later["run_id"]
    assert first["seconds"] < later["seconds"] and later["method"] != "not measured"
    assert ["failed" in record for record in spent()] == [False]


def test_a_result_costs_what_all_attempts_cost_that_it_continues(toy):
    def write_checkpoint(outputs):
        (outputs["checkpoint"] / "step-1").mkdir(parents=True, exist_ok=True)
        fail(outputs)

    toy.execute("a")  # succeeds, so that nothing continues it
    for then in (fail, write_checkpoint, fail):  # the first fails before it has written a checkpoint
        with pytest.raises(ZeroDivisionError):
            toy.execute("a", then=then)
    with (
        pytest.raises(RuntimeError),
        pytest.MonkeyPatch.context() as patched,
    ):  # as a kill before the receipt is written
        patched.setattr(attempt, "_sum", lambda attempts: (_ for _ in ()).throw(RuntimeError))
        toy.execute("a")
    toy.execute("a")
    receipt = json.loads((toy.receipts / "toy.json").read_text())
    assert receipt["attempts"] == 4
    for figure in attempt.SUMMED:
        assert receipt[figure] == pytest.approx(sum(record[figure] for record in spent()[2:]))
    assert receipt["seconds"] > spent()[-1]["seconds"] > 0 and receipt["started"] == spent()[2]["started"]
    assert not attempt.CHECKPOINTS.joinpath("toy").exists()


def test_a_checkpoint_is_continued_if_the_records_were_deleted(toy):
    def write_checkpoint(outputs):
        (outputs["checkpoint"] / "step-1").mkdir(parents=True)
        fail(outputs)

    with pytest.raises(ZeroDivisionError):
        toy.execute("a", then=write_checkpoint)
    shutil.rmtree(attempt.SPENT)
    toy.execute("a")
    assert json.loads((toy.receipts / "toy.json").read_text())["attempts"] == 1


def test_a_checkpoint_belongs_to_one_key(toy):
    folders = []

    def write_checkpoint(outputs):
        folders.append(outputs["checkpoint"])
        outputs["checkpoint"].mkdir(parents=True, exist_ok=True)
        fail(outputs)

    for text in ("a", "a", "b"):
        Path("code.py").write_text(text)
        with pytest.raises(ZeroDivisionError):
            toy.execute(then=write_checkpoint)
    assert folders[0] == folders[1] != folders[2]
    assert [path.name for path in attempt.CHECKPOINTS.joinpath("toy").iterdir()] == [folders[2].name]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "data/x"), r"'data/x': free some space"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "free some space, or move the project"),
        (OSError(errno.EROFS, "Read-only file system", "data/x"), "must be writable"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
            "GiB.*lower wordpiece.words_per",
        ),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"), "or else finetune.batch_size"),
        (MemoryError(), "lower wordpiece.words_per_batch"),
        (WeightsError("folder: no\x1b[31m config"), r"^folder: no\\x1b\[31m config$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_user_can_change_is_said_in_one_line(error, line):
    said = stage.in_one_line(error)
    assert re.search(line, said) and said.isprintable()


def test_other_errors_keep_their_traceback():
    assert stage.in_one_line(ValueError("a bug")) is None


@pytest.mark.parametrize("point", ["dev", "train", "test", "base"])
def test_a_point_may_have_the_name_of_a_split(point):
    deps = ["data/wordpieces/dev", "data/wordpieces/test", f"data/model/{point}", "src/rootstock", "data/features"]
    folders = attempt.folders(dag.Stage(f"evaluate@{point}", "", deps, [], {}, {}), deps)
    for name, path in {
        "wordpieces/dev": deps[0],
        "wordpieces/test": deps[1],
        "model": deps[2],
        "features": deps[4],
    }.items():
        assert str(folders[name]) == path


@pytest.mark.slow
def test_a_point_named_dev_is_trained_and_evaluated(finished, tmp_path):
    project = finished.copy(tmp_path / "project")
    project.set(sweep={"dev": {}})
    project.stage("finetune@dev")
    project.stage("evaluate@dev")
    assert (project.folder / "data/evaluation/dev/metrics.json").is_file()
