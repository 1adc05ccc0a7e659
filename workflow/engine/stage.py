"""What every stage does around its work: find out which stage it is, check settings and versions, run alone."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from importlib import metadata
from pathlib import Path

from ..files import IGNORED
from . import attempt, dag, lock, params, stop
from .attempt import CHECKPOINTS, Run
from .errors import Problem, printable

NAME = "DVC_STAGE"  # the environment variable in which DVC, and our Snakefile, pass the stage's name
RUNNING = Path("data/running")  # a lock for each stage of this clone
RETIRED = Path("data/retired")  # results that no stage of dvc.yaml produces any more
VERSIONS = "workflow/versions.yaml"
PATIENCE = 30  # seconds to wait for the same stage to end: one whose engine was killed is about to
ADVICE = {  # by error number of the operating system
    errno.ENOSPC: "free some space, or move the project",
    errno.EDQUOT: "free some space, or move the project",
    errno.EROFS: "the project and the caches must be writable",
    errno.EACCES: "the project and the caches must be writable",
    errno.EIO: "the disk or the network file system has failed",
}


def main(module: str, run: Run) -> None:
    """Run one stage as dvc.yaml describes it.

    run(params, inputs, outputs): gets the folders by their name below data/, without the item, such as "model" or
    "wordpieces/train", and "checkpoint", which need not exist; may return facts for the receipt.
    """
    stop.listen()
    name = _name(module)
    try:
        settings = params.load()
        stages = dag.load()
        if name not in stages:
            raise Problem(f"dvc.yaml has no such stage; it has: {', '.join(stages)}")
        if NAME in os.environ:
            stop.follow_engine()
        with lock.alone(RUNNING / name, name, PATIENCE):
            _warn_about_versions(stages[name])
            _retire(stages[name], stages)
            attempt.execute(stages[name], stages, run, settings)
    except stop.Stopped as stopped:
        print(f"{name}: {stopped}: `make repro`, or the same command again, continues from there", file=sys.stderr)
        sys.exit(stop.code())
    except Exception as error:
        if not (said := in_one_line(error)):
            raise
        sys.exit(f"{name}: error: {said}")


def in_one_line(error: Exception) -> str | None:
    """One line about an error that the user can do something about; None for others, which keep their traceback."""
    if isinstance(error, Problem):
        return str(error)
    kind, text = type(error).__name__, printable(str(error).strip().partition("\n")[0])
    for number, advice in ADVICE.items():  # by the words, too, because not every library raises OSError
        if os.strerror(number) in text:
            return f"{text}: {advice}"
    if isinstance(error, MemoryError) or kind == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory ({text}): lower wordpiece.words_per_batch, or else finetune.batch_size"
    return text if kind == "WeightsError" else None  # the library's, which is not imported here: not all stages need it


def _name(module: str) -> str:
    """The stage's name, such as `finetune@base`: by hand from an argument, else from the engine.

    No command in dvc.yaml contains an item, because items come from params.yaml, and a shell would execute them.
    """
    if sys.argv[1:] or NAME not in os.environ:
        return "@".join([module, *sys.argv[1:]])
    return os.environ[NAME].rpartition(":")[2]  # called in a subfolder, DVC puts `../dvc.yaml:` before it


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


def retire(path: Path) -> Path:
    """Move a result that no stage produces any more. RETURNS: to where."""
    target = RETIRED / path.relative_to("data")
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(path, target))


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
                print(f"{stage.name}: no stage produces {path} any more: moved to {retire(path)}")
    for folder in CHECKPOINTS.glob("*"):
        if folder.name not in stages:
            shutil.rmtree(folder, ignore_errors=True)
