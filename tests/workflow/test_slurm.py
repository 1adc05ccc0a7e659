"""The DAG on a real Slurm cluster: the same bytes as `dvc repro`, also after a killed job and a lost node."""

import gzip
import json
import subprocess
import sys
from datetime import datetime, timedelta

import pytest
from mlflow import MlflowClient

from tests.conftest import ROOT
from tests.workflow.mlflow_server import Server
from tests.workflow.project import Project, shorten, small
from tests.workflow.slurm import Slurm, skip_reason
from workflow.engine import dag
from workflow.engine.attempt import read_records
from workflow.files import digest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(skip_reason()), reason=skip_reason()),
]
# Without accounting, the plugin must be told to use squeue.
SNAKEMAKE = [
    sys.executable, "-m", "snakemake", "--profile", "workflow/profiles/slurm",
    "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "9",
]  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with Slurm(tmp_path_factory.mktemp("slurm")) as slurm:
        yield slurm


@pytest.fixture(scope="module")
def project(tiny, slurm, tmp_path_factory) -> Project:
    project = make(tiny, tmp_path_factory.mktemp("on_slurm"))
    done = snakemake(project)
    assert done.returncode == 0, done.stdout + done.stderr + slurm.logs()
    return project


def make(tiny, folder) -> Project:
    project = Project(folder, **small(tiny, **{"data.folder": "few"}))
    project.warm = False  # Slurm starts the processes
    shorten(project, ROOT / "data/sample", folder="few", train=32, dev=16, test=16)
    return project


def snakemake(project, *options) -> subprocess.CompletedProcess:
    return project.call(*SNAKEMAKE, *options, check=False)


def results(project) -> dict[str, str]:
    """Digests of the outs of every stage, except receipts, which contain measured times."""
    outs = [out for stage in dag.load(project.folder).values() for out in stage.outs if "receipts" not in out]
    return {out: digest(project.folder / out) for out in outs}


def test_results_equal_those_of_dvc_repro(project, slurm, tiny, tmp_path):
    other = make(tiny, tmp_path)
    other.call("dvc", "repro")
    assert results(project) == results(other)
    assert len(slurm.call("squeue", "--noheader", "--states=COMPLETED").splitlines()) >= len(dag.load(project.folder))


def test_points_of_a_sweep_run_in_parallel_and_log_to_a_server(slurm, tiny, tmp_path):
    """Two points at a time on the two cores of the node. Each logs its curves while it trains."""
    project = make(tiny, tmp_path / "project")
    project.set(sweep={"base": {}, "other": {"seed": 1}}, **{"finetune.epochs": 20})
    (tmp_path / "mlflow").mkdir()
    with Server(tmp_path / "mlflow") as server:
        project.tracking_uri = server.uri
        resources = [f"finetune_{point}:mem_mb=4000" for point in ("base", "other")]  # so that both fit on the node
        done = snakemake(project, "--set-resources", *resources)
        assert done.returncode == 0, done.stdout + done.stderr + slurm.logs()
        receipts = [
            json.loads((project.folder / f"data/receipts/finetune@{point}.json").read_text())
            for point in ("base", "other")
        ]
        client = MlflowClient(server.uri)
        runs = [client.get_run(receipt["mlflow_run"]) for receipt in receipts]
        assert {run.data.tags["training"] for run in runs} == {"in this clone"}
        for run, point in zip(runs, ("base", "other"), strict=True):
            curve = json.loads((project.folder / f"data/model/{point}/train_curve.json").read_text())
            logged = client.get_metric_history(run.info.run_id, "train/loss")
            assert [m.step for m in logged] == [p["step"] for p in curve]
    starts = [datetime.fromisoformat(receipt["started"]) for receipt in receipts]
    ends = [start + timedelta(seconds=r["seconds"]) for start, r in zip(starts, receipts, strict=True)]
    assert max(starts) < min(ends), "the points were fine-tuned one after the other"


def running(slurm, name: str) -> list[str]:
    """Ids of the running jobs with this rule."""
    lines = slurm.call("squeue", "--noheader", "--states=RUNNING", "--format=%i %k").splitlines()
    return [line.split()[0] for line in lines if name in line]


def test_a_corpus_in_eight_slices_with_a_killed_job(project, slurm, tiny, tmp_path):
    """All rows once, and the same bytes as on one machine."""
    texts = [f"The {thing} was {how}." for thing in ("soup", "room", "bus", "desk") for how in ("cold", "good")]
    found = {}
    for name, engine in {"slurm": project.copy(tmp_path / "slurm"), "dvc": make(tiny, tmp_path / "dvc")}.items():
        (engine.folder / "corpus").mkdir()
        rows = [json.dumps({"text": text, "id": i}) for i, text in enumerate(texts * 4)]
        (engine.folder / "corpus/a.jsonl").write_text("\n".join(rows))
        engine.set(**{"annotate.corpora": {"reviews": "corpus"}, "annotate.slice_rows": 4})
        if name == "dvc":
            engine.module("partition")
            engine.call("dvc", "repro")
        else:
            with (engine.folder / "killed.log").open("w") as log:
                run = subprocess.Popen(
                    [*SNAKEMAKE, "--retries", "0", "--keep-going"],
                    cwd=engine.folder,
                    env=engine.environment(),
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
                slurm.wait(lambda: running(slurm, "annotate"), "no slice is annotated", 180)
                slurm.call("scancel", "--signal=KILL", running(slurm, "annotate")[0])
                assert run.wait(900) != 0
            done = snakemake(engine)
            assert done.returncode == 0 and done.stderr.count("rule annotate_reviews_") < 8, done.stderr
        found[name] = [path.read_bytes() for path in sorted((engine.folder / "data/annotated").glob("*/rows.jsonl.gz"))]
    assert found["slurm"] == found["dvc"] and len(found["dvc"]) == 8
    lines = [line for part in found["slurm"] for line in gzip.decompress(part).decode().splitlines()]
    assert [json.loads(line)["id"] for line in lines] == list(range(32))


def run_and_interrupt(project, slurm, interrupt) -> int:
    """Run the DAG, and call interrupt(job id) while fine-tuning runs. RETURNS: the exit status of the run."""
    with (project.folder / "interrupted.log").open("w") as log:
        command = [*SNAKEMAKE, "--retries", "0"]
        run = subprocess.Popen(
            command, cwd=project.folder, env=project.environment(), stdout=log, stderr=log, start_new_session=True
        )
        slurm.wait(lambda: running(slurm, "finetune"), "no fine-tuning is running", 180)
        checkpoints = project.folder / "data/checkpoints/finetune@base"
        slurm.wait(lambda: any(checkpoints.glob("*/best-*")), "no epoch has ended", 120)
        interrupt(running(slurm, "finetune")[0])
        return run.wait(900)  # generous: the plugin checks a long job less and less often


def check(project, log: str, before: dict[str, str]) -> None:
    """The DAG has finished, and earlier stages did not run again."""
    assert "rule finetune_base" in log
    assert not any(f"rule {name}" in log for name in ("sentencize_", "wordpiece_", "download_weights"))
    after = results(project)
    assert after["data/model/base"] != before["data/model/base"]
    assert after["data/wordpieces/train"] == before["data/wordpieces/train"]


def test_the_next_run_continues_after_a_killed_job(project, slurm):
    """The run itself fails."""
    before = results(project)
    project.set(**{"finetune.epochs": 60})
    assert run_and_interrupt(project, slurm, lambda job: slurm.call("scancel", job)) != 0
    [killed] = [r for r in read_records(project.folder / "data/ledger/spent") if "failed" in r]
    assert killed["stage"] == "finetune@base" and killed["seconds"] > 0, "the cost of the killed job must be recorded"
    done = snakemake(project)
    assert done.returncode == 0, done.stdout + done.stderr
    check(project, done.stderr, before)
    assert "continuing after step" in (project.folder / ".snakemake/log/finetune@base.log").read_text()


def test_a_fine_tuning_that_exceeds_its_time_limit_finishes_over_several_jobs(project, slurm, tmp_path):
    """Slurm sends SIGTERM a minute before the end; the job writes a checkpoint, and Snakemake submits it again."""
    project.set(**{"finetune.epochs": 1500})
    done = snakemake(project, "--set-resources", "finetune_base:runtime=2", "--retries", "30")
    assert done.returncode == 0, done.stdout + done.stderr + slurm.logs()
    receipt = json.loads((project.folder / "data/receipts/finetune@base.json").read_text())
    assert receipt["attempts"] > 1 and receipt["seconds"] > 60
    other = project.copy(tmp_path / "undisturbed")
    other.stage("finetune@base")
    assert results(project)["data/model/base"] == results(other)["data/model/base"]


def test_a_run_continues_after_its_node_was_lost(project, slurm):
    """Slurm requeues the job when the node is back."""
    before = results(project)
    project.set(**{"finetune.epochs": 61})

    def lose_the_node(job: str) -> None:
        slurm.stop("slurmd")
        slurm.call("scontrol", "update", f"nodename={slurm.host}", "state=down", "reason=lost")
        assert not running(slurm, "finetune")
        slurm.start("slurmd", "-D")
        slurm.wait(lambda: "idle" in slurm.call("sinfo", "--noheader", "--format=%T"), "the node has not come back")

    assert run_and_interrupt(project, slurm, lose_the_node) == 0
    check(project, (project.folder / "interrupted.log").read_text(), before)


def test_a_corpus_in_eight_jobs_of_which_one_is_killed(project, slurm, tmp_path):
    """All rows once, and the same bytes as on one machine."""
    texts = [f"{'Good' if i % 3 else 'Bad'} value, said customer {i}, on day {i % 7}." for i in range(8 * 400)]
    (project.folder / "corpus.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    project.set(**{"annotate.corpora": {"said": "corpus.jsonl"}, "annotate.slice_rows": 400})
    project.module("partition")
    other = project.copy(tmp_path / "one_machine")
    names = [name.replace("@", "_") for name in dag.load(project.folder) if name.startswith("annotate@")]
    assert len(names) == 8
    with (project.folder / "annotate.log").open("w") as log:
        resources = ["--set-resources", *(f"{name}:mem_mb=4000" for name in names)]  # so that two fit on the node
        run = subprocess.Popen(
            [*SNAKEMAKE, *resources], cwd=project.folder, env=project.environment(), stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
        slurm.wait(lambda: running(slurm, "annotate"), "no slice is annotated", 180)
        slurm.call("scancel", "--signal=KILL", "--full", running(slurm, "annotate")[0])
        assert run.wait(900) == 0, (project.folder / "annotate.log").read_text()
    assert "Error in rule annotate" in (project.folder / "annotate.log").read_text()
    other.call("dvc", "repro")
    assert results(project) == results(other)
    lines = []
    for name in names:
        with gzip.open(project.folder / f"data/annotated/{name.removeprefix('annotate_')}/rows.jsonl.gz", "rt") as file:
            lines += [json.loads(line)["text"] for line in file]
    assert lines == texts
