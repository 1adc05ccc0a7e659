"""What Snakemake does not know by itself: params, and what DVC has on record."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import yaml

from .dag import UNTRACKED, Stage, needs

STATE = Path(".snakemake/rootstock")


def stamp(stage: Stage) -> str:
    """A file that is written anew when the command or the params of a stage change: Snakemake goes by files."""
    path, now = STATE / f"{stage.name}.json", json.dumps([stage.cmd, stage.params], indent=1, sort_keys=True)
    if not path.is_file() or path.read_text("utf-8") != now:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(now, encoding="utf-8")
    return str(path)


def settle(stages: dict[str, Stage]) -> None:
    """Take over from DVC what is done, where dvc.lock has changed: after `dvc repro`, `dvc pull`, in a fresh clone.

    Snakemake compares times, and what DVC restores has them in any order: what dvc.lock calls done gets them in that
    of the DAG.
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
    """The stages whose record in dvc.lock still holds, in an order in which they can run."""
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
            params = entry.get("params", {}).get("params.yaml", {})
            deps = {dep["path"]: dep["md5"] for dep in entry.get("deps", [])}
            same = deps.keys() == set(stage.deps) and all(
                md5 == (recorded.get(path) or _md5(Path(path))) for path, md5 in deps.items()
            )
            if params == stage.params and set(needs(stage, stages)) <= set(found) and same:
                found.append(stage.name)
    return found


def _md5(path: Path) -> str:
    """Of a file or folder as DVC writes it down."""
    if not path.is_dir():
        return hashlib.md5(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    files = [p for p in path.rglob("*") if p.is_file() and not UNTRACKED & set(p.parts)]
    entries = [{"md5": _md5(p), "relpath": p.relative_to(path).as_posix()} for p in files]
    entries.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode()).hexdigest() + ".dir"
