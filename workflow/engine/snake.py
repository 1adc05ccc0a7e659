"""Tell Snakemake what it does not notice by itself: which results are up to date, as their receipts say.

Snakemake compares modification times. But DVC restores files in any order, settings and code may be changed and changed
back, and a change within a folder does not change the folder's time. So each stage has a stamp among its inputs, which
is new if the stage's command, params or code have changed, or the data.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from ..files import digest
from .attempt import RECEIPTS, made_by
from .dag import Stage, chain, inputs
from .errors import Problem
from .lock import alone

STATE = Path(".snakemake/rootstock")


def stamp(stage: Stage) -> str:
    """Path of a stage's stamp."""
    return str(STATE / f"{stage.name}.stamp")


def lock() -> Problem | None:
    """Hold a lock until this process ends. RETURNS: who else holds it, if it is not free.

    Snakemake's own lock stays after a kill, until somebody calls `snakemake --unlock`.
    """
    try:
        _held.enter_context(alone(STATE / "lock", "Snakemake", patience=0))
    except Problem as problem:
        return problem
    return None


_held = ExitStack()


def mark_up_to_date(stages: dict[str, Stage]) -> None:
    """Bring the times of stamps and outs up to date. Nothing else is changed, so that a dry run leaves no trace."""
    STATE.mkdir(parents=True, exist_ok=True)
    current = up_to_date(stages)
    made = {out for stage in stages.values() for out in stage.outs if os.path.lexists(out)}
    newest = time.time()
    for name, stage in stages.items():
        path = Path(stamp(stage))
        path.write_text(name if name in current else str(newest), "utf-8")  # Snakemake compares the contents, too
        if name in current:
            os.utime(path, (0, 0))
    for name in sorted(current, key=lambda name: len(chain(stages[name], stages))):  # in the order of the DAG
        read = max((_time(path) for path in inputs(stages[name], stages) if path in made), default=0.0)
        if read >= min(map(_time, stages[name].outs)):
            newest += 0.001
            for out in stages[name].outs:
                _touch(out, newest)


def up_to_date(stages: dict[str, Stage]) -> set[str]:
    """The stages whose results were made by their present command, params and deps."""
    receipts = {name: _receipt(RECEIPTS / f"{name}.json") for name in stages}
    made = {out: sha256 for receipt in receipts.values() for out, sha256 in receipt.get("outs", {}).items()}
    once = cache(lambda path: digest(Path(path)) if Path(path).exists() else None)

    def is_current(stage: Stage) -> bool:
        receipt = receipts[stage.name]
        return (
            all(Path(out).exists() for out in stage.outs)
            and receipt.get("made_by") == made_by(stage)
            and receipt.get("deps") == {path: made.get(path) or once(path) for path in inputs(stage, stages)}
        )

    return {name for name, stage in stages.items() if is_current(stage)}


def _receipt(path: Path) -> dict[str, Any]:
    """A receipt; empty if there is none, or a damaged one."""
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def _time(out: str) -> float:
    """The modification time of an out, as Snakemake sees it; of a link itself, not of the file in DVC's cache."""
    timestamp = Path(out) / ".snakemake_timestamp"
    return (timestamp if timestamp.exists() else Path(out)).lstat().st_mtime


def _touch(out: str, mtime: float) -> None:
    for path in (Path(out), Path(out) / ".snakemake_timestamp"):
        if os.path.lexists(path):
            try:
                os.utime(path, (mtime, mtime), follow_symlinks=False)
            except PermissionError:  # a hard link into a cache that belongs to somebody else
                copy = path.with_name(f"{path.name}.copy")
                shutil.copyfile(path, copy)
                copy.replace(path)
                os.utime(path, (mtime, mtime))
