"""What Snakemake does not know by itself: changed params, and which results DVC has recorded."""

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
    """A file that is rewritten when the command or the params of a stage change: Snakemake compares files."""
    path, now = STATE / f"{stage.name}.json", json.dumps([stage.cmd, stage.params], indent=1, sort_keys=True)
    if not path.is_file() or path.read_text("utf-8") != now:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(now, encoding="utf-8")
    return str(path)


def settle(stages: dict[str, Stage]) -> None:
    """Tell Snakemake which stages are done, if dvc.lock has changed: after `dvc repro`, `dvc pull`, in a fresh clone.

    Snakemake compares modification times, and files that DVC restores have them in any order. Outs that dvc.lock
    records get times in the order of the DAG.
    """
    lock, seen = Path("dvc.lock"), STATE / "dvc.lock.sha256"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else ""
    if not digest or (seen.is_file() and seen.read_text() == digest):
        return
    moment = time.time()
    for name in done(stages, yaml.load(lock.read_bytes(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]):
        moment += 0.001
        os.utime(stamp(stages[name]), (0, 0))
        for out in stages[name].outs:
            for path in (Path(out), Path(out) / ".snakemake_timestamp"):
                if path.exists():
                    os.utime(path, (moment, moment))
    seen.parent.mkdir(parents=True, exist_ok=True)
    seen.write_text(digest)


def done(stages: dict[str, Stage], locked: dict[str, Any]) -> list[str]:
    """The stages whose record in dvc.lock still holds, each after the stages that it needs."""
    recorded = {out["path"]: out["md5"] for entry in locked.values() for out in entry.get("outs", [])}
    found: list[str] = []
    waiting = dict(stages)
    while waiting:
        ready = [stage for stage in waiting.values() if not waiting.keys() & set(needs(stage, stages))]
        for stage in ready:
            del waiting[stage.name]
            entry = locked.get(stage.name)
            if entry is None or entry["cmd"] != stage.cmd or not all(Path(out).exists() for out in stage.outs):
                continue
            deps = {dep["path"]: dep["md5"] for dep in entry.get("deps", [])}
            same = deps.keys() == set(stage.deps) and all(
                md5 == (recorded.get(path) or _md5(Path(path))) for path, md5 in deps.items()
            )
            if entry.get("params", {}) == stage.params and set(needs(stage, stages)) <= set(found) and same:
                found.append(stage.name)
    return found


def _md5(path: Path) -> str:
    """MD5 of a file or folder, as DVC computes it."""
    if not path.is_dir():
        return hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    files = [p for p in path.rglob("*") if p.is_file() and not IGNORED & set(p.parts)]
    entries = [{"md5": _md5(p), "relpath": p.relative_to(path).as_posix()} for p in files]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"
