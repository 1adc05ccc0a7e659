"""Results in a local MLflow store, whatever people delete, purge or change between two calls of the ledger."""

import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from tests.workflow.records.store import SETTINGS, Store
from tests.workflow.texts import TEXTS
from workflow.engine.errors import Problem
from workflow.records.tracking import client, live, registry, results, view
from workflow.records.tracking.client import VERDICT
from workflow.records.tracking.results import COMPLETE, COMPUTED, PARENT


def test_the_run_of_the_training_becomes_the_record(store):
    live_run = store.train()
    assert store.record() == (live_run, True)
    assert store.assert_right() == live_run


# What people do to a store: each changes it, and RETURNS whether the same run must be found again.


def delete_the_experiment(store: Store, run_id: str) -> bool:
    store.client.delete_experiment(store.experiment().experiment_id)
    return True


def purge_the_experiment(store: Store, run_id: str) -> bool:
    delete_the_experiment(store, run_id)
    store.purge()
    return False


def rename_the_experiment(store: Store, run_id: str) -> bool:
    store.client.rename_experiment(store.experiment().experiment_id, "another name")
    return False


def delete_the_run(store: Store, run_id: str) -> bool:
    store.client.delete_run(run_id)
    return False


def purge_the_run(store: Store, run_id: str) -> bool:
    store.client.delete_run(run_id)
    store.purge()
    return False


def delete_runs_of_stages(store: Store, run_id: str) -> bool:
    for child in store.runs()[1][:3]:
        store.client.delete_run(child.info.run_id)
    return True


def delete_the_version(store: Store, run_id: str) -> bool:
    store.client.delete_model_version("en_sample_sentiment", store.versions()[0].version)
    return True


def delete_the_registered_model(store: Store, run_id: str) -> bool:
    store.client.delete_registered_model("en_sample_sentiment")
    return True


def delete_the_logged_model(store: Store, run_id: str) -> bool:
    store.client.delete_logged_model(store.versions()[0].source.removeprefix("models:/"))
    return True


def rename_the_registered_model(store: Store, run_id: str) -> bool:
    store.client.rename_registered_model("en_sample_sentiment", "another_name")
    return True


def delete_the_alias(store: Store, run_id: str) -> bool:
    store.client.delete_registered_model_alias("en_sample_sentiment", registry.ALIAS)
    return True


def delete_all_files(store: Store, run_id: str) -> bool:
    shutil.rmtree(store.folder / "mlruns")
    return True


def delete_tags(store: Store, run_id: str) -> bool:
    for name in (COMPLETE, registry.DEV_ROWS, "training"):
        store.client.delete_tag(run_id, name)
    store.client.delete_experiment_tag(store.experiment().experiment_id, view.TAG)
    return True


def delete_the_store(store: Store, run_id: str) -> bool:
    (store.folder / "mlflow.db").unlink()
    return False


DEEDS = [
    delete_the_experiment, purge_the_experiment, rename_the_experiment, delete_the_run, purge_the_run,
    delete_runs_of_stages, delete_the_version, delete_the_registered_model, delete_the_logged_model,
    rename_the_registered_model, delete_the_alias, delete_all_files, delete_tags,
]  # fmt: skip


SLOW = (purge_the_experiment, purge_the_run)  # MLflow's garbage collection is


@pytest.mark.parametrize(
    "deed",
    [pytest.param(deed, marks=pytest.mark.slow) if deed in SLOW else deed for deed in DEEDS],
    ids=lambda deed: deed.__name__,
)
def test_the_next_call_ends_right(store, deed):
    store.train()
    run_id, _ = store.record()
    same = deed(store, run_id)
    assert (store.assert_right() == run_id) == same


@pytest.mark.slow
@pytest.mark.parametrize("deed", [delete_the_experiment, purge_the_experiment], ids=lambda deed: deed.__name__)
def test_training_logs_to_an_experiment_that_was_deleted(store, deed, capsys):
    run_id, _ = store.record()
    deed(store, run_id)
    live_run = store.train()
    errors = capsys.readouterr().err
    assert "not logging" not in errors and ("was deleted: restored" in errors) == (deed is delete_the_experiment)
    store.result, store.training = "another result", "2"
    assert store.record() == (live_run, True)


def test_how_a_result_compares_is_kept_up_to_date(store):
    """Another point of the sweep may be the best later on; nothing else is logged then."""
    run_id, _ = store.record()
    assert VERDICT not in store.client.get_run(run_id).data.tags, "compare has not run"
    for store.verdict in ("the best on dev", "p 0.03 on test against hot (McNemar's test)"):
        assert store.record() == (run_id, False)
        assert store.client.get_run(run_id).data.tags[VERDICT] == store.verdict
    experiment = store.settings["tracking"]["experiment"]
    results.keep_verdicts(experiment, [run_id])
    assert VERDICT in store.client.get_run(run_id).data.tags
    results.keep_verdicts(experiment, ["another"])
    assert VERDICT not in store.client.get_run(run_id).data.tags, "its point is no longer in the sweep"


def test_stages_of_a_deleted_result_are_not_reused_ones(store):
    first, _ = store.record()
    store.client.delete_run(first)
    second, _ = store.record()
    tags = [child.data.tags for child in store.runs()[1]]
    assert second != first and {(tag["origin"], tag[PARENT]) for tag in tags} == {(COMPUTED, second)}
    assert store.client.get_run(second).data.metrics["energy/wh_reused"] == 0


@pytest.mark.slow
def test_a_deleted_version_of_another_result_does_not_matter(store):
    """The run that its version was registered from was purged."""
    first, _ = store.record()
    store.result, store.training, store.accuracy = "another result", "2", 0.25
    second, _ = store.record()
    assert store.best() == first
    purge_the_run(store, first)
    assert store.assert_right() == second and store.best() == second


def test_settings_that_changed_after_the_training_lead_to_a_new_run(store):
    """`dvc repro evaluate`, then evaluate.worst is changed, then `make repro`; and the same after an interruption."""
    live_run = store.train()
    store.settings["evaluate"]["worst"] = 3
    run_id = store.assert_right()
    assert run_id != live_run and store.client.get_run(live_run).info.lifecycle_stage == "deleted"
    assert store.client.get_run(run_id).data.params["evaluate.worst"] == "3"


@pytest.mark.parametrize("step", ["_log_child", "_log_curves", "_log_datasets", "_log_figures", "_log_files"])
def test_a_ledger_that_was_interrupted(store, monkeypatch, step):
    """It is interrupted at each step; then a setting and the result are others."""
    store.train()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(results, step, interrupt)
        store.record()
    store.settings["evaluate"]["worst"], store.result, store.accuracy = 3, "another result", 0.75
    run_id = store.assert_right()
    assert store.client.get_run(run_id).data.params["evaluate.worst"] == "3"


def test_a_complete_run_stays_when_the_same_result_comes_from_other_settings(store):
    run_id, _ = store.record()
    store.settings["data"]["on_bad_row"] = "skip"
    assert store.assert_right() == run_id


def test_names_follow_the_settings_of_today(store):
    live_run = store.train()
    store.record()
    first = store.experiment().experiment_id
    store.settings["tracking"]["experiment"] = "another"
    assert store.assert_right() != live_run and store.experiment().experiment_id != first
    store.settings["package"]["name"] = "another"
    run_id = store.assert_right()
    assert [version.run_id for version in store.versions()] == [run_id] and store.best() == run_id
    assert not any(name.startswith("package.") for name in store.client.get_run(run_id).data.params)


@pytest.mark.slow
def test_only_what_was_scored_on_the_same_rows_is_compared(store):
    """The alias is on the best of those with the newest one's rows."""
    high, _ = store.record()
    store.result, store.training, store.accuracy, store.rows = "2", "2", 0.25, "another seed's"
    low, _ = store.record()
    assert store.best() == low
    store.result, store.training, store.accuracy, store.rows = "3", "3", 0.3, "rows"
    store.record()
    assert store.best() == high
    store.result, store.training, store.accuracy, store.rows = "2", "2", 0.25, "another seed's"
    assert store.record() == (low, False)
    assert store.best() == high, "what is newest does not depend on who looks"


def test_every_label_has_its_own_metric(store):
    labels = [*TEXTS, "👎", "a\nb", "a", "A", "x" * 299 + "y", "ok"]
    store.f1 = {label: number / 16 for number, label in enumerate(labels)}
    metrics = store.client.get_run(store.assert_right()).data.metrics
    for split in ("dev", "test"):
        values = {name: value for name, value in metrics.items() if name.startswith(f"{split}/f1 ")}
        assert sorted(values.values()) == sorted(store.f1.values())
        assert len({name.casefold() for name in values}) == len(labels)  # MySQL does not distinguish capitals
        assert all(re.fullmatch(r"[\w .-]+", name.removeprefix(f"{split}/f1 ")) for name in values)
    assert metrics["test/f1 ok"] == store.f1["ok"]


def test_names_that_mlflow_allows():
    names = client.names(["R&D", "C++", "a/../b", "ok"])
    assert list(names.values()) == ["R_D", "C__", "a___b", "ok"]
    names = client.names(["C+", "C#", "C"])
    assert names["C"] == "C" and all(name.startswith("C_ ") for name in (names["C+"], names["C#"]))
    assert client.names(["C#", "C+"])["C+"] == names["C+"], "the order of the labels does not matter"


def test_file_names_among_the_settings(store):
    """Names of params come from params.yaml, too."""
    store.settings["weights"]["sha256"] = {f"model+{number}.bin": "0" * 64 for number in range(120)}
    run_id = store.assert_right()
    assert len([name for name in store.client.get_run(run_id).data.params if name.startswith("weights.sha256")]) == 120


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyError("x"), RuntimeError(), ImportError()]
)
@pytest.mark.parametrize("step", ["open_experiment", "log_params", "log_points"])
def test_any_error_while_logging_leaves_the_training_alone(monkeypatch, capsys, error, step):
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(client, "open_experiment", lambda name: (MagicMock(), "0"))
    monkeypatch.setattr(client, step, fail)
    with live.run(SETTINGS, Path("data/model/base")) as run:
        run.log({"step": 1, "loss": 1.0})
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"MLflow: not logging while training ({type(error).__name__}")


def test_reasons_in_one_line():
    from mlflow.exceptions import MlflowException

    errors = {
        MlflowException("one\r\ntwo"): "one",
        MlflowException("\x1b[2J\u202egone"): "\\x1b[2J\\u202egone",
        MlflowException(""): "MlflowException",
        RuntimeError(): "RuntimeError",
        KeyError("x"): "KeyError: 'x'",
        OSError("a\nb"): "OSError: a",
    }
    assert [client.reason(error) for error in errors] == list(errors.values())


def test_a_training_that_is_stopped_while_it_logs_stops(monkeypatch):
    """SIGTERM becomes SystemExit, which is no error of the logging."""
    monkeypatch.setattr(client, "open_experiment", lambda name: sys.exit(143))
    with pytest.raises(SystemExit), live.run(SETTINGS, Path("data/model/base")):
        pass


def test_the_run_of_a_training_that_was_killed_ends_with_the_next(store):
    """The next training of the same model; another model's training goes on."""
    trainings = [live.LiveRun(SETTINGS, store.folder / name, True, None) for name in ("model", "other", "model")]
    assert [store.client.get_run(run.run_id).info.status for run in trainings] == ["KILLED", "RUNNING", "RUNNING"]


def test_any_error_of_the_ledger_is_one_line(store, monkeypatch):
    (store.folder / "mlruns").write_text("a file, not a folder")
    with pytest.raises(Problem, match=r"^MLflow at sqlite:.*: [A-Z]\w+: ") as found:
        store.record()
    assert "\n" not in str(found.value)
    (store.folder / "mlruns").unlink()
    store.assert_right()


@pytest.mark.slow
def test_a_starting_training_does_not_wait_for_the_ledger(store, monkeypatch):
    """Nor for one that uploads a model."""
    uploading, trained = threading.Event(), threading.Event()
    register = registry.register

    def upload(*arguments: Any) -> bool:
        uploading.set()
        assert trained.wait(60), "the training waited for the upload"
        return register(*arguments)

    monkeypatch.setattr(registry, "register", upload)
    ledger = threading.Thread(target=store.record)
    ledger.start()
    assert uploading.wait(60)
    code = """
from pathlib import Path
from workflow.engine import params
from workflow.records.tracking import live
with live.run(params.load().model_dump(), Path("data/model/base")) as run:
    print(run.run_id)
"""
    job = subprocess.run([sys.executable, "-c", code], cwd=store.folder, capture_output=True, text=True, timeout=50)
    trained.set()
    ledger.join()
    assert store.client.get_run(job.stdout.strip()).info.status == "FINISHED", job.stderr


def test_two_ledgers_of_a_clone_record_one_run(store):
    ledgers = [threading.Thread(target=store.record) for _ in range(2)]
    for ledger in ledgers:
        ledger.start()
    for ledger in ledgers:
        ledger.join()
    store.assert_right()
