"""Tell Snakemake what it does not notice by itself: changed params, and results that DVC has restored."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import yaml

from ..files import IGNORED
from .dag import Stage, needs

STATE = Path(".snakemake/rootstock")


def stamp(stage: Stage) -> str:
    """Path of a file that is rewritten when a stage's command or params change: Snakemake only compares files."""
    path, content = STATE / f"{stage.name}.json", json.dumps([stage.cmd, stage.params], indent=1, sort_keys=True)
    if not path.is_file() or path.read_text("utf-8") != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return str(path)


def mark_up_to_date(stages: dict[str, Stage]) -> None:
    """Tell Snakemake which stages are up to date, if dvc.lock has changed: after `dvc repro` or `dvc pull`, in a clone.

    Snakemake compares modification times, and DVC restores files in any order. So the outs of stages that are up to
    date get modification times in the order of the DAG.
    """
    lock, last_lock = Path("dvc.lock"), STATE / "dvc.lock.sha256"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else ""
    if not digest or (last_lock.is_file() and last_lock.read_text() == digest):
        return
    mtime = time.time()
    locked = yaml.load(lock.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
    for name in up_to_date(stages, locked):
        mtime += 0.001
        os.utime(stamp(stages[name]), (0, 0))
        for out in stages[name].outs:
            for path in (Path(out), Path(out) / ".snakemake_timestamp"):
                if path.exists():
                    os.utime(path, (mtime, mtime))
    last_lock.parent.mkdir(parents=True, exist_ok=True)
    last_lock.write_text(digest)


def up_to_date(stages: dict[str, Stage], locked: dict[str, Any]) -> list[str]:
    """The stages whose entry in dvc.lock is still valid, each after the stages that it needs."""
    md5_of_outs = {out["path"]: out["md5"] for entry in locked.values() for out in entry.get("outs", [])}
    valid: list[str] = []
    remaining = dict(stages)
    while remaining:
        ready = [stage for stage in remaining.values() if not remaining.keys() & set(needs(stage, stages))]
        for stage in ready:
            del remaining[stage.name]
            entry = locked.get(stage.name)
            if entry is None or entry["cmd"] != stage.cmd or not all(Path(out).exists() for out in stage.outs):
                continue
            deps = {dep["path"]: dep["md5"] for dep in entry.get("deps", [])}
            deps_unchanged = deps.keys() == set(stage.deps) and all(
                md5 == (md5_of_outs.get(path) or _md5(Path(path))) for path, md5 in deps.items()
            )
            if entry.get("params", {}) == stage.params and set(needs(stage, stages)) <= set(valid) and deps_unchanged:
                valid.append(stage.name)
    return valid


def _md5(path: Path) -> str:
    """MD5 of a file or folder, as DVC computes it."""
    if not path.is_dir():
        return hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    files = [p for p in path.rglob("*") if p.is_file() and not IGNORED & set(p.parts)]
    entries = [{"md5": _md5(p), "relpath": p.relative_to(path).as_posix()} for p in files]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"
