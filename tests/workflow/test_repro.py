"""The DAG under DVC: which stages run, what is reused, what MLflow records, and what the wheels contain."""

import csv
import json
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT, SHARED
from tests.rootstock.weights.test_families import make_weights
from tests.workflow.project import STAGES, Project, executed, shorten, small
from workflow.files import digest
from workflow.records.tracking.results import PARENT

UP_TO_EVALUATE = [name for name in STAGES if name.partition("@")[0] not in ("compare", "package", "package_weights")]
UP_TO_DATE = "Data and pipelines are up to date."


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory) -> Project:
    """The tests of this module change it, in the order of this file."""
    project = finished.copy(tmp_path_factory.mktemp("repro") / "project", keep_runs=True)
    project.first = (project.folder / "first.log").read_text()
    return project


def mlflow_client(project: Project):
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{project.folder}/mlflow.db")


def parent_runs(project: Project) -> list:
    """The runs of results in MLflow, newest first."""
    client = mlflow_client(project)
    [experiment] = [e for e in client.search_experiments() if e.name == "rootstock"]
    runs = client.search_runs([experiment.experiment_id])
    return [run for run in runs if PARENT not in run.data.tags]


def test_every_stage_runs_and_writes_a_receipt(project):
    assert executed(project.first) == list(STAGES)
    for stage in STAGES:
        receipt = json.loads((project.folder / f"data/receipts/{stage}.json").read_text())
        assert receipt["stage"] == stage and receipt["seconds"] > 0
        assert 0 <= receipt["kwh_low"] <= receipt["kwh"] <= receipt["kwh_high"] and receipt["method"]
        for out, expected in receipt["outs"].items():
            assert digest(project.folder / out) == expected


def test_the_summary_has_stages_scores_cost_wheels_and_commands(project):
    for stage in STAGES:
        assert f"\n{stage} " in project.first
    for part in (
        "Wh",
        "test  accuracy 0.",
        "macro F1",
        "data/package/en_sample_sentiment-0.1.0-py3-none-any.whl",
        "data/vectors/en_minilm-0.1.0-py3-none-any.whl",
        "make ui",
    ):
        assert part in project.first


def test_a_second_repro_does_nothing(project):
    output = project.call("dvc", "repro").stdout
    assert UP_TO_DATE in output and executed(output) == []
    before = len(parent_runs(project))
    assert "nothing new" in project.module("records.ledger").stdout
    assert len(parent_runs(project)) == before


def test_mlflow_has_params_metrics_curves_plots_and_model(project):
    client, run = mlflow_client(project), parent_runs(project)[-1]
    assert run.info.status == "FINISHED"
    assert run.data.params["finetune.epochs"] == "1" and run.data.params["seed"] == "0"
    metrics = json.loads((project.folder / "data/evaluation/base/metrics.json").read_text())
    assert run.data.metrics["test/accuracy"] == metrics["test"]["accuracy"]
    assert run.data.metrics["energy/wh"] > 0
    curve = json.loads((project.folder / "data/model/base/train_curve.json").read_text())
    logged = sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss"))
    assert logged == [(p["step"], p["loss"]) for p in curve]
    assert client.get_metric_history(run.info.run_id, "train/dev_accuracy")
    names = {item.path for item in client.list_artifacts(run.info.run_id, "evaluation")}
    assert {"evaluation/confusion.png", "evaluation/calibration.png", "evaluation/metrics.json"} <= names
    assert list(Path(run.info.artifact_uri).parents[1].rglob("artifacts/pipeline/trf_tok2vec/model.safetensors"))


def test_inconsistent_or_missing_results_are_not_recorded(project, tmp_path):
    """The receipt of an evaluation must name the current model."""
    before = len(parent_runs(project))
    receipt = project.folder / "data/receipts/evaluate@base.json"
    content = receipt.read_text()
    receipt.unlink()  # it may be a link into the cache
    receipt.write_text(content.replace(json.loads(content)["deps"]["data/model/base"], "0" * 64))
    errors = project.module("records.ledger").stderr
    assert "no current result of evaluate@base (computed from a different data/model/base), compare, package:" in errors
    receipt.unlink()
    assert "no current result of evaluate@base, compare, package:" in project.module("records.ledger").stderr
    assert len(parent_runs(project)) == before
    receipt.write_text(content)


@pytest.mark.slow
def test_the_ledger_logs_everything_to_a_new_store(project):
    """The store has no run of this training."""
    uri = f"sqlite:///{project.folder}/other.db"
    done = project.call("env", f"MLFLOW_TRACKING_URI={uri}", sys.executable, "-m", "workflow.records.ledger")
    assert "recorded run" in done.stdout
    from mlflow import MlflowClient

    [run] = [run for run in MlflowClient(uri).search_runs(["1"]) if PARENT not in run.data.tags]
    assert run.data.tags["training"] == "in this clone" and run.data.params["finetune.epochs"] == "1"
    assert len(MlflowClient(uri).get_metric_history(run.info.run_id, "train/dev_accuracy")) == 1


def test_the_ledger_names_a_server_that_is_down(project):
    env = ["env", "MLFLOW_TRACKING_URI=http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES=0"]
    done = project.call(*env, sys.executable, "-m", "workflow.records.ledger", check=False)
    assert done.returncode == 1 and done.stderr.startswith("ledger: error: MLflow at http://127.0.0.1:9")


def test_metrics_and_errors_follow_from_the_predictions(project):
    evaluation = project.folder / "data/evaluation/base"
    rows = [json.loads(line) for line in (evaluation / "test.jsonl").open()]
    n_correct = sum(row["gold"][max(row["scores"], key=row["scores"].get)] for row in rows)
    metrics = json.loads((evaluation / "metrics.json").read_text())["test"]
    assert metrics["documents"] == len(rows) == 24
    assert metrics["accuracy"] == pytest.approx(n_correct / 24, abs=1e-6)
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    worst = json.loads((evaluation / "worst.json").read_text())
    assert len(worst) == min(20, 24 - n_correct) and all(
        max(w["scores"], key=w["scores"].get) not in w["gold"] for w in worst
    )
    assert len(json.loads((evaluation / "confusion.json").read_text())) == 24
    for plot in ("confusion.png", "calibration.png"):
        assert (evaluation / plot).read_bytes().startswith(b"\x89PNG")


def test_dvc_shows_metrics_and_plots(project):
    assert "base.test.accuracy" in project.call("dvc", "metrics", "show").stdout
    project.call("dvc", "plots", "show", "--out", "plots")
    assert (project.folder / "plots/index.html").is_file()


def test_the_wheels_are_reproducible_and_self_contained(project):
    wheels = {p.name.split("-")[0]: p for p in (project.folder / "data/package").glob("*.whl")}
    assert set(wheels) == {"en_sample_sentiment", "spacy_rootstock"}
    with zipfile.ZipFile(wheels["en_sample_sentiment"]) as wheel:
        names = wheel.namelist()
        metadata = wheel.read(next(n for n in names if n.endswith("METADATA"))).decode()
        assert "Requires-Dist: spacy-rootstock" in metadata
        assert any(n.endswith("trf_tok2vec/model.safetensors") for n in names)
        assert {info.date_time[:3] for info in wheel.infolist()} == {(2000, 1, 1)}
        for name in names:
            assert str(project.folder).encode() not in wheel.read(name), name
    card = (project.folder / "data/package/MODEL_CARD.md").read_text()
    assert "licence: not stated" in card, "the weights of this test have no model card"
    assert "kWh" not in metadata and "What it cost" in card, "measured figures must be next to the wheel, not in it"


@pytest.mark.slow
def test_the_wheel_of_the_library_holds_every_module_and_can_load_them(project, tmp_path):
    """Without this checkout: what `package` installs and imports is the wheel."""
    wheel = next((project.folder / "data/package").glob("spacy_rootstock-*.whl"))
    modules = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src/rootstock").rglob("*.py")}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.endswith(".py")} == modules
        archive.extractall(tmp_path)
    names = [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in sorted(modules)]
    code = f"import importlib, sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += f"for name in {names}: assert importlib.import_module(name).__file__.startswith({str(tmp_path)!r})"
    project.call(sys.executable, "-c", code)


def test_the_wheel_of_the_weights_has_no_head(project):
    """Its stage depends only on the weights, so that a change of the data does not make it stale."""
    wheels = {p.name.split("-")[0]: p for p in (project.folder / "data/vectors").glob("*.whl")}
    assert set(wheels) == {"en_minilm", "spacy_rootstock"}
    with zipfile.ZipFile(wheels["en_minilm"]) as wheel:
        meta = json.loads(wheel.read(next(n for n in wheel.namelist() if n.endswith("meta.json"))))
        assert meta["components"] == ["sentencizer", "trf_wordpiecer", "trf_tok2vec"]
    assert [dep for dep in STAGES["package_weights"].deps if dep.startswith("data/")] == ["data/weights"]


@pytest.mark.slow
def test_the_stage_stops_if_the_wheel_computes_different_vectors(project, tmp_path):
    import numpy as np

    from workflow.engine.errors import Problem
    from workflow.stages.package_weights import TEXTS, check

    with pytest.raises(Problem, match="vectors of the installed en_minilm differ from those of data/weights"):
        check("en_minilm", project.folder / "data/vectors", np.ones((len(TEXTS), 16)), 1, tmp_path)


def test_the_stage_stops_if_the_wheel_predicts_differently(project, tmp_path):
    from workflow.engine.errors import Problem
    from workflow.model.wheels import check_predictions

    lines = (project.folder / "data/evaluation/base/test.jsonl").read_text().splitlines()
    row = json.loads(lines[3])
    row["scores"] = {label: 1 - score for label, score in row["scores"].items()}
    (tmp_path / "test.jsonl").write_text("\n".join([*lines[:3], json.dumps(row), *lines[4:]]))
    with pytest.raises(
        Problem, match="predictions of the installed en_sample_sentiment differ from evaluate's, first for"
    ):
        wheels, predictions = project.folder / "data/package", tmp_path / "test.jsonl"
        check_predictions("en_sample_sentiment", wheels, predictions, 128, 2, tmp_path)


@pytest.mark.slow
def test_a_change_of_finetune_reruns_later_stages_and_reverting_it_reruns_none(project):
    assert len(parent_runs(project)) == 1
    model = digest(project.folder / "data/model")
    project.set(**{"finetune.epochs": 2})
    assert executed(project.call("dvc", "repro").stdout) == ["finetune@base", "evaluate@base", "compare", "package"]
    assert digest(project.folder / "data/model") != model
    assert "recorded run" in project.module("records.ledger").stdout
    assert len(parent_runs(project)) == 2

    project.set(**{"finetune.epochs": 1})
    output = project.call("dvc", "repro").stdout
    assert executed(output) == [] and output.count("is cached - skipping run") == 4
    assert digest(project.folder / "data/model") == model
    assert "nothing new" in project.module("records.ledger").stdout
    assert len(parent_runs(project)) == 2


def test_a_repeated_training_gives_the_same_bytes_and_no_new_run(project):
    model, evaluation = (digest(project.folder / f"data/{name}") for name in ("model", "evaluation"))
    before = {run.info.run_id for run in parent_runs(project)}
    project.call("dvc", "repro", "--force", "--single-item", "finetune@base", "evaluate@base")
    assert digest(project.folder / "data/model") == model
    assert digest(project.folder / "data/evaluation") == evaluation
    assert "nothing new" in project.module("records.ledger").stdout
    assert {run.info.run_id for run in parent_runs(project)} == before


@pytest.mark.slow
def test_a_budget_stops_fine_tuning_and_is_recorded(project):
    """The last test that changes the project: the model is trained for few steps, then evaluated and recorded as usual."""
    project.set(**{"finetune.epochs": 40, "carbon.budget_g": 1e-4})
    assert "carbon.budget_g, 0.0001 g of CO2, is spent" in project.call("dvc", "repro").stdout
    receipt = json.loads((project.folder / "data/receipts/finetune@base.json").read_text())
    assert 0 < receipt["steps"] < receipt["steps_planned"] == 120
    curve = json.loads((project.folder / "data/model/base/dev_curve.json").read_text())
    assert curve[-1]["step"] == receipt["steps"]
    stopped = f"stopped after {receipt['steps']} of 120 steps: carbon.budget_g"
    assert f"base: {stopped}" in project.module("records.ledger").stdout
    assert any(stopped in run.data.tags.get("training", "") for run in parent_runs(project))


@pytest.mark.slow
def test_experiments_of_dvc(finished, tmp_path):
    """One runs what depends on its change, and stands in DVC's table beside the commit that it comes from."""
    project = finished.copy(tmp_path / "project")
    project.commit()
    done = project.call("dvc", "exp", "run", "--name", "twice", "--set-param", "finetune.epochs=2", "evaluate@base")
    assert executed(done.stdout) == ["finetune@base", "evaluate@base"]
    shown = project.call("dvc", "exp", "show", "--csv").stdout.splitlines()
    table = {row["Experiment"]: row for row in csv.DictReader(shown)}
    commit = next(row for row in table.values() if row["typ"] == "baseline" and row["rev"])
    assert (commit["finetune.epochs"], table["twice"]["finetune.epochs"]) == ("1", "2")
    assert float(table["twice"]["base.dev.accuracy"]) > 0


SAMPLES = {
    "sst2": {"train": 60, "dev": 20, "test": 20},
    "imdb": {"train": 60, "test": 12},
    "trec": {"train": 120, "test": 30},
}


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the public data sets are not available in {SHARED}")
@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLES)
def test_other_data_needs_only_other_params(name, tiny, tmp_path):
    """Samples of public data: with and without a dev file, two and six classes, short and long texts."""
    project = Project(tmp_path, **small(tiny, **{"data.folder": "data/few"}))
    shorten(project, SHARED / name, **SAMPLES[name])
    assert executed(project.call("dvc", "repro", "evaluate@base").stdout) == UP_TO_EVALUATE
    metrics = json.loads((tmp_path / "data/evaluation/base/metrics.json").read_text())
    assert metrics["test"]["documents"] == SAMPLES[name]["test"]
    report = json.loads((tmp_path / "data/sentences/train/report.json").read_text())
    assert len(report["labels"]) == (6 if name == "trec" else 2)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the real tokenizers are not available in {SHARED}")
@pytest.mark.parametrize("family", ["xlnet", "gpt2"])
@pytest.mark.slow
def test_the_dag_runs_with_models_unlike_bert(family, tmp_path):
    """With the class piece at the end, and without a class piece."""
    weights = make_weights(family, tmp_path / "weights")
    project = Project(tmp_path / "project", **small(weights, **{"data.folder": "data/few"}))
    shorten(project, ROOT / "data/sample", train=16, dev=8, test=8)
    for stage in STAGES:
        project.stage(stage)
    assert "accuracy" in project.module("records.ledger").stdout
    assert json.loads((tmp_path / "project/data/weights/config.json").read_text())["model_type"] == family


@pytest.mark.slow
def test_two_fresh_clones_of_the_sample_give_the_same_bytes(minilm, tmp_path):
    """With the real configuration, except for local weights and one epoch. The clones share no cache."""
    digests = []
    for name in ("a", "b"):
        project = Project(tmp_path / name, **{"weights.source": f"path:{minilm}", "finetune.epochs": 1})
        assert executed(project.call("dvc", "repro").stdout) == list(STAGES)
        outs = [out for stage in STAGES.values() for out in stage.outs if "receipts" not in out]
        digests.append({out: digest(project.folder / out) for out in outs})
        wheels = sorted((project.folder / "data").rglob("*.whl"))
        digests[-1] |= {str(wheel.relative_to(project.folder)): digest(wheel) for wheel in wheels}
    assert digests[0] == digests[1] and len([name for name in digests[0] if name.endswith(".whl")]) == 4


@pytest.mark.slow
def test_five_thousand_labels(tiny, tmp_path):
    project = Project(tmp_path, **small(tiny, **{"data.folder": "data/few"}))
    (tmp_path / "data/few").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        rows = [json.dumps({"text": f"{split} number {number}.", "label": f"class {number}"}) for number in range(5000)]
        (tmp_path / f"data/few/{split}.jsonl").write_text("\n".join(rows))
    assert executed(project.call("dvc", "repro").stdout) == list(STAGES)
    assert "recorded run" in project.module("records.ledger").stdout
    metrics = json.loads((tmp_path / "data/evaluation/base/metrics.json").read_text())
    assert metrics["test"]["documents"] == len(metrics["test"]["f1"]) == 5000
    [run] = parent_runs(project)
    assert len([name for name in run.data.metrics if name.startswith("test/f1 ")]) == 5000
    project.module("records.report")
    assert (tmp_path / "data/report.html").stat().st_size < 3e6
    assert len((tmp_path / "data/package/MODEL_CARD.md").read_text()) < 10_000


@pytest.mark.slow
def test_several_labels_per_row_and_a_frozen_transformer(tiny, tmp_path):
    """Each label has a threshold of its own, which evaluate and the model card follow."""
    changes = {"data.folder": "data/few", "data.exclusive": False, "finetune.trainable": False}
    changes["finetune.choose_thresholds"] = True
    project = Project(tmp_path, **small(tiny, **changes))
    (tmp_path / "data/few").mkdir(parents=True)
    rows = [
        ("Good soup.", ["FOOD"]),
        ("Kind waiter.", ["STAFF"]),
        ("Good soup, kind waiter.", ["FOOD", "STAFF"]),
        ("Far away.", []),
    ]
    for split in ("train", "dev", "test"):
        content = "\n".join(json.dumps({"text": text, "labels": labels}) for text, labels in rows)
        (tmp_path / f"data/few/{split}.jsonl").write_text(content)
    for stage in [*UP_TO_EVALUATE, "compare", "package"]:
        project.stage(stage)
    metrics = json.loads((tmp_path / "data/evaluation/base/metrics.json").read_text())
    thresholds = json.loads((tmp_path / "data/model/base/pipeline/trf_textcat/cfg").read_text())["thresholds"]
    assert set(metrics["test"]["f1"]) == set(thresholds) == {"FOOD", "STAFF"}
    predictions = [json.loads(line) for line in (tmp_path / "data/evaluation/base/test.jsonl").open()]
    for row in predictions:
        assert row["predicted"] == [label for label, p in row["scores"].items() if p >= thresholds[label]]
        assert row["right"] == ({label for label, holds in row["gold"].items() if holds} == set(row["predicted"]))
    assert metrics["test"]["accuracy"] == sum(row["right"] for row in predictions) / len(predictions)
    project.module("records.ledger")  # writes the card beside the wheel
    listed = ", ".join(f"{label} {threshold:.3f}" for label, threshold in thresholds.items())
    assert f"| predicted from a probability of | {listed} |" in (tmp_path / "data/package/MODEL_CARD.md").read_text()
    from rootstock.weights.weights import load_model

    before = load_model(tmp_path / "data/weights").state_dict()
    after = load_model(tmp_path / "data/model/base/pipeline/trf_tok2vec").state_dict()
    assert all(bool((before[name] == value).all()) for name, value in after.items())
