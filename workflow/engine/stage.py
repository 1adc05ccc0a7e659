"""What every stage does around its work: check settings and versions, meter energy, write a receipt."""

from __future__ import annotations

import platform
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from ..files import IGNORED, digest, write_json
from . import dag, energy, params
from .errors import Problem

RECEIPTS = Path("data/receipts")  # of the current results; DVC shares them with the results
SPENT = Path("data/ledger/spent")  # of every stage run in this clone, including failed ones; never shared
RETIRED = Path("data/retired")  # results that no stage of dvc.yaml produces any more
VERSIONS = "workflow/versions.yaml"

Run = Callable[[params.Params, dict[str, Path], dict[str, Path]], dict[str, Any] | None]


def main(name: str, run: Run) -> None:
    """Run one stage as dvc.yaml describes it. For a `foreach` stage, the command line names the item.

    run(params, inputs, outputs): gets the folders by their name below data/, without the item, such as "model" or
    "wordpieces/train"; may return facts for the receipt.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a cancelled job cleans up like a failed one
    try:
        settings = params.load()
        name = "@".join([name, *sys.argv[1:]])
        stages = dag.load()
        if name not in stages:
            raise Problem(f"dvc.yaml has no such stage; it has: {', '.join(stages)}")
        _warn_about_versions(stages[name])
        _retire(stages[name], stages)
        _execute(stages[name], stages, run, settings)
    except Problem as problem:
        sys.exit(f"{name}: error: {problem}")


def _warn_about_versions(stage: dag.Stage) -> None:
    """Warn if installed versions differ from those in the stage's params: DVC would cache the result under those."""
    expected = stage.params.get(VERSIONS, {})
    installed = {package: metadata.version(package).partition("+")[0] for package in expected}
    differing = [f"{p} {installed[p]} (expected {v})" for p, v in expected.items() if installed[p] != v]
    if differing:
        print(
            f"{stage.name}: warning: installed versions are not those of {VERSIONS}: {', '.join(differing)}. "
            "Results may differ slightly. `make setup` installs the expected versions",
            file=sys.stderr,
        )


def _retire(stage: dag.Stage, stages: dict[str, dag.Stage]) -> None:
    """Move results of stages that no longer exist, such as a removed point of the sweep, out of the stage's deps.

    DVC hashes a dep as a whole folder, and in a clone that pulls, the folder holds only outs of existing stages.
    """
    outs = [Path(out) for other in stages.values() for out in other.outs]
    for dep in map(Path, stage.deps):
        if not any(dep in out.parents for out in outs):
            continue
        for path in [p for p in dep.iterdir() if p.is_dir() and p.name not in IGNORED]:
            if not any(path == out or path in out.parents for out in outs):
                target = RETIRED / path.relative_to("data")
                shutil.rmtree(target, ignore_errors=True)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(path, target)
                print(f"{stage.name}: no stage produces {path} any more: moved to {target}")


def _folders(stage: dag.Stage, paths: list[str]) -> dict[str, Path]:
    """The folders among a stage's deps or outs, by their name below data/; the item's by the name without it, too."""
    item = stage.name.partition("@")[2]
    folders = [Path(path) for path in paths if Path(path).parts[0] == "data" and RECEIPTS not in Path(path).parents]
    names = {"/".join(path.parts[1:]): path for path in folders}
    return names | {"/".join(path.parts[1:-1]): path for path in folders if path.name == item}


def _execute(stage: dag.Stage, stages: dict[str, dag.Stage], run: Run, settings: params.Params) -> None:
    inputs, outputs = _folders(stage, stage.deps), _folders(stage, stage.outs)
    (RECEIPTS / f"{stage.name}.json").unlink(missing_ok=True)  # no receipt without a result; it may link into the cache
    for path in set(outputs.values()):  # made anew, also if the stage is called directly
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True, exist_ok=True)
    receipt: dict[str, Any] = {
        "stage": stage.name,
        "run_id": uuid.uuid4().hex,
        "host": platform.node(),
        "git_commit": _git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "made_by": made_by(stage),
        "deps": {dep: digest(Path(dep)) for dep in dag.inputs(stage, stages) if Path(dep).exists()},
    }
    start, consumption = time.perf_counter(), energy.Energy()
    try:
        with energy.metered(settings.carbon.country, settings.carbon.pue, consumption):
            facts = run(settings, inputs, outputs) or {}
    except BaseException:
        for path in set(outputs.values()):
            shutil.rmtree(path, ignore_errors=True)  # an incomplete output must not be mistaken for a result
        facts = {"failed": True}
        raise
    finally:
        receipt |= {
            "seconds": round(time.perf_counter() - start, 3),
            **asdict(consumption),
            "pue": settings.carbon.pue,
            **facts,
            "params": settings.model_dump(),
            "outs": {str(path): digest(path) for path in outputs.values() if path.exists()},
        }
        for folder, name in ((SPENT, receipt["run_id"]), (RECEIPTS, stage.name)):
            if folder == SPENT or "failed" not in facts:
                folder.mkdir(parents=True, exist_ok=True)
                write_json(folder / f"{name}.json", receipt)


def made_by(stage: dag.Stage) -> dict[str, Any]:
    """What a stage's result depends on besides its deps."""
    return {"cmd": stage.cmd, "params": stage.params}


def _git_commit() -> str:
    """The commit of the code that runs, with `-dirty` if files differ from it; "none" without git."""
    try:
        git = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(git, capture_output=True, encoding="utf-8").stdout.strip() or "none"
    except FileNotFoundError:
        return "none"
