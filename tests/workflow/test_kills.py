"""kill -9 at any moment: the next run ends with the same bytes, and nobody has to clean up. One with --slow, many with `make soak`."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from tests import soak
from tests.workflow.project import SNAKEMAKE, Project
from workflow.engine import dag
from workflow.files import digest

pytestmark = pytest.mark.soak
ENGINES = {"DVC": ["dvc", "repro"], "Snakemake": SNAKEMAKE}  # a stage's name may follow
VICTIMS = ("the engine", "the stage", "both")
Moment = Callable[[Project, float], bool]  # whether to kill now, that many seconds after the start


def results(project: Project) -> dict[str, str]:
    """Digests of all results but the receipts, which contain measured times."""
    outs = [out for stage in dag.load(project.folder).values() for out in stage.outs if "receipts" not in out]
    return {out: digest(project.folder / out) for out in outs if (project.folder / out).exists()}


@pytest.fixture(scope="module")
def undisturbed(finished, tmp_path_factory) -> Project:
    """Results to compare with, of a fine-tuning that is long enough to be killed."""
    project = finished.copy(tmp_path_factory.mktemp("kills") / "undisturbed", keep_runs=True)
    project.set(**{"finetune.epochs": 10, "checkpoints.minutes": 1e-9})
    project.call("dvc", "repro", *([] if soak.long else ["finetune@base"]))
    project.expected = results(project)
    return project


def rewound(undisturbed: Project, folder, first: str) -> Project:
    """A copy in which a stage and those after it have not run yet."""
    project = undisturbed.copy(folder, keep_runs=True)
    project.warm = False  # a warm stage is no child of its engine
    stages = dag.load(folder)
    gone = [name for name in stages if first in dag.chain(stages[name], stages)]
    for out in [out for name in gone for out in stages[name].outs]:
        shutil.rmtree(folder / out) if (folder / out).is_dir() else (folder / out).unlink()
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    lock["stages"] = {name: content for name, content in lock["stages"].items() if name not in gone}
    (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
    shutil.rmtree(folder / ".dvc/cache/runs")
    return project


def start(project: Project, engine: str, target: str) -> subprocess.Popen:
    """target: the last stage to run; all, if it is empty."""
    name = target if engine == "DVC" else target.replace("@", "_")
    command = [*ENGINES[engine], *([name] if name else [])]
    with (project.folder / "engine.log").open("a") as log:
        return subprocess.Popen(
            command, cwd=project.folder, env=project.environment(), stdout=log, stderr=log, start_new_session=True
        )


def running_stages(project: Project) -> Iterator[int]:
    """Processes that hold the lock of a stage."""
    for path in project.folder.glob("data/running/*"):
        pid = path.read_text().partition(" on ")[0].removeprefix("process ")
        if pid.isdigit() and path.read_bytes() and f"{project.folder}" == _folder(int(pid)):
            yield int(pid)


def _folder(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return None


def kill(project: Project, engine: subprocess.Popen, victim: str) -> None:
    stages = list(running_stages(project))
    if victim != "the engine":
        for pid in stages:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGKILL)
    if victim != "the stage" or not stages:
        engine.kill()
    engine.wait(600)  # without one of its stages, an engine may go on with others


def run_and_kill(project: Project, engine: str, target: str, moment: Moment, victim: str) -> bool:
    """RETURNS: whether something was killed before the engine had ended by itself."""
    process, begin = start(project, engine, target), time.monotonic()
    while process.poll() is None:
        if moment(project, time.monotonic() - begin):
            kill(project, process, victim)
            return True
        time.sleep(0.002)
    assert process.returncode == 0, (project.folder / "engine.log").read_text()
    return False


def finish(project: Project, engine: str, target: str, expected: dict[str, str]) -> None:
    """Run once more, at once, while an orphan may still be about to stop; compare."""
    process = start(project, engine, target)
    log = (project.folder / "engine.log").read_text
    assert process.wait(600) == 0, log()
    found = results(project)
    assert found.items() <= expected.items() and (len(found) == len(expected) or target), log()
    assert not list(project.folder.glob("data/checkpoints/*")) and not list(project.folder.glob("data/**/*.part"))
    assert "Traceback" not in log(), log()


def training(project: Project, seconds: float) -> bool:
    return any(project.folder.glob("data/checkpoints/finetune@base/*/step-*"))


def saving(project: Project, seconds: float) -> bool:
    """While a pipeline or a checkpoint is written."""
    return any(project.folder.glob("data/checkpoints/finetune@base/*/.*.part/*"))


def committing(project: Project, seconds: float) -> bool:
    """The stage has ended; DVC or Snakemake has not noted it yet."""
    return (project.folder / "data/receipts/finetune@base.json").exists()


def packaging(project: Project, seconds: float) -> bool:
    return (project.folder / "data/package").exists() and any((project.folder / "data/package").iterdir())


MOMENTS = {"finetune@base": (training, saving, committing), "package": (packaging,)}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("first, moment", [(first, moment) for first in MOMENTS for moment in MOMENTS[first]])
def test_a_kill_at_a_delicate_moment(undisturbed, tmp_path, engine, first, moment):
    kills = soak.cases(int(moment is training and engine == "DVC"), 6 if engine == "DVC" else 3)
    if not kills:
        pytest.skip("`make soak` runs this")
    for number in range(kills):
        project = rewound(undisturbed, tmp_path / f"{number}", first)
        rng = random.Random(soak.start + number)
        later = 0.0 if moment is committing else rng.uniform(0, 1.0)  # seconds after the moment has come
        since: list[float] = []

        def now(project, seconds, later=later, since=since):
            if moment(project, seconds) and not since:
                since.append(seconds)
            return bool(since) and seconds - since[0] >= later

        killed = run_and_kill(project, engine, first, now, VICTIMS[number % 3])
        finish(project, engine, first, undisturbed.expected)
        soak.tried[f"kills under {engine}"] += killed
        shutil.rmtree(project.folder)


@pytest.mark.skipif("not config.getoption('soak')", reason="takes many minutes: `make soak` runs this")
@pytest.mark.parametrize("engine, kills", [("DVC", 30), ("Snakemake", 12)])
def test_kills_spread_over_the_whole_dag(undisturbed, tmp_path, engine, kills):
    """Each run of the DAG is killed again and again until it is done; then the next begins from nothing."""
    rng, number = random.Random(soak.start), 0
    while number < kills:
        project = rewound(undisturbed, tmp_path / f"{number}", "download_weights")
        for stage in ("sentencize@train", "sentencize@dev", "sentencize@test"):  # they do not need the weights
            for out in dag.load(project.folder)[stage].outs:
                path = project.folder / out
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        (project.folder / "dvc.lock").unlink()
        delay = rng.uniform(2, 25)
        while run_and_kill(project, engine, "", lambda _, seconds, delay=delay: seconds > delay, VICTIMS[number % 3]):
            number, delay = number + 1, rng.uniform(2, 25)
            soak.tried[f"kills under {engine}"] += 1
        finish(project, engine, "", undisturbed.expected)
        shutil.rmtree(project.folder, ignore_errors=True)  # the ledger of a killed engine may still write its store
