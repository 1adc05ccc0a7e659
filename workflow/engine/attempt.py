"""One attempt to compute a stage's result: on record from its start, and kept only if its inputs have not changed."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..files import digest, write_json
from . import dag, energy, params
from .errors import Problem

RECEIPTS = Path("data/receipts")  # of the current results; DVC shares them with the results
SPENT = Path("data/ledger/spent")  # of every attempt in this clone, including failed ones; never shared
CHECKPOINTS = Path("data/checkpoints")  # of unfinished stages; not outs, which engines delete before they run a stage
HEARTBEAT = 10  # seconds between two records of an attempt; SIGKILL leaves the last
SUMMED = ("seconds", "kwh", "kwh_low", "kwh_high", "metering_seconds")  # figures of a receipt, over all attempts

Run = Callable[[params.Params, dict[str, Path], dict[str, Path]], dict[str, Any] | None]


def execute(stage: dag.Stage, stages: dict[str, dag.Stage], run: Run, settings: params.Params) -> None:
    """Run a stage, and write its receipt."""
    inputs, outputs = folders(stage, stage.deps), folders(stage, stage.outs)
    (RECEIPTS / f"{stage.name}.json").unlink(missing_ok=True)  # no receipt without a result; it may link into the cache
    for path in set(outputs.values()):  # made anew, also if the stage is called directly
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True, exist_ok=True)
    origin = _origin(stage, stages)
    _check_inputs(stage, stages, origin["deps"])
    key = hashlib.sha256(json.dumps([stage.name, origin], sort_keys=True).encode()).hexdigest()[:16]
    checkpoint = CHECKPOINTS / stage.name / key
    _remove_all_but(checkpoint)
    continued = _continued(key) if any(checkpoint.glob("step-*")) else []
    start, consumption = time.perf_counter(), energy.Energy()
    receipt: dict[str, Any] = {
        "stage": stage.name,
        "run_id": uuid.uuid4().hex,
        "key": key,
        "host": platform.node(),
        "git_commit": _git_commit(),
        "started": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "pue": settings.carbon.pue,
        "params": settings.model_dump(),
        "continues": [attempt["run_id"] for attempt in continued],
        **origin,
    }
    spent = SPENT / f"{receipt['run_id']}.json"
    for folder in (SPENT, RECEIPTS):
        folder.mkdir(parents=True, exist_ok=True)

    def note(facts: dict[str, Any]) -> dict[str, Any]:
        """Write the record of this attempt."""
        record = receipt | {"seconds": round(time.perf_counter() - start, 3), **asdict(consumption)} | facts
        write_json(spent, record)
        return record

    def note_unfinished() -> None:
        energy.refresh()
        note({"failed": True})

    note_unfinished()
    try:
        with energy.metered(settings.carbon.country, settings.carbon.pue, consumption), _repeated(note_unfinished):
            facts = run(settings, inputs, outputs | {"checkpoint": checkpoint}) or {}
        _check_unchanged(stage.name, origin)
    except BaseException:
        for path in set(outputs.values()):
            shutil.rmtree(path, ignore_errors=True)  # an incomplete output must not be mistaken for a result
        note({"failed": True})
        raise
    facts["outs"] = {str(path): digest(path) for path in outputs.values()}
    write_json(RECEIPTS / f"{stage.name}.json", _sum([*continued, note(facts)]))
    shutil.rmtree(checkpoint.parent, ignore_errors=True)


def folders(stage: dag.Stage, paths: list[str]) -> dict[str, Path]:
    """The folders among a stage's deps or outs, by their path below data/.

    The folder of the stage's own item has a second name, without the item: `model` is data/model/base for
    `finetune@base`.
    """
    item = stage.name.partition("@")[2]
    found = [Path(path) for path in paths if Path(path).parts[0] == "data" and RECEIPTS not in Path(path).parents]
    names = {"/".join(path.parts[1:]): path for path in found}
    return names | {"/".join(path.parts[1:-1]): path for path in found if path.name == item}


def made_by(stage: dag.Stage) -> dict[str, Any]:
    """What a stage's result depends on besides its deps."""
    return {"cmd": stage.cmd, "params": stage.params}


def _origin(stage: dag.Stage, stages: dict[str, dag.Stage]) -> dict[str, Any]:
    """All that a stage's result depends on."""
    deps = {dep: digest(Path(dep)) for dep in dag.inputs(stage, stages) if Path(dep).exists()}
    return {"made_by": made_by(stage), "deps": deps}


def _check_inputs(stage: dag.Stage, stages: dict[str, dag.Stage], digests: dict[str, str]) -> None:
    """Raises Problem if another stage's result is not as its receipt says: DVC looks at a file's time and size only."""
    for name in dag.needs(stage, stages):
        path, made = RECEIPTS / f"{name}.json", read_receipt(name)["outs"]
        if made.keys() != set(stages[name].outs) - {str(path)}:
            raise _damaged(path)
        for out in made.keys() & digests.keys():
            require_as_made(name, out, made[out], digests[out])


def require_as_made(name: str, out: str, made: str, found: str) -> None:
    """Raises Problem if the digest of a stage's result is not the one in its receipt."""
    if made != found:
        _distrust(Path(out))
        (RECEIPTS / f"{name}.json").unlink(missing_ok=True)
        raise Problem(f"{out}: damaged, or edited, since {name} wrote it. The next `make repro` makes it anew")


def read_receipt(name: str) -> dict[str, Any]:
    """The receipt of a stage's result. Raises Problem if it is missing or damaged."""
    path = RECEIPTS / f"{name}.json"
    try:
        receipt = dict(json.loads(path.read_text("utf-8")))
        return receipt | {"outs": dict(receipt["outs"])}
    except (OSError, ValueError, KeyError, TypeError):
        raise _damaged(path) from None


def _damaged(receipt: Path) -> Problem:
    _distrust(receipt)
    return Problem(f"{receipt}: missing or damaged. The next `make repro` makes it anew")


def _distrust(path: Path) -> None:
    """Mark files as changed and as writable: then DVC does not trust them, nor their copies in its cache."""
    for file in [path, *path.rglob("*")]:
        if file.is_file():
            file.chmod(0o644)
            os.utime(file)


def _check_unchanged(name: str, origin: dict[str, Any]) -> None:
    """Raises Problem if a dep or setting of a stage was edited while it ran.

    DVC reads both again when the stage has ended, and would record the new ones for a result of the old ones.
    """
    stages = dag.load()
    if name not in stages:
        raise Problem("dvc.yaml or params.yaml was edited while this stage ran, and has no such stage any more")
    if changed := _difference(origin, _origin(stages[name], stages)):
        raise Problem(f"{changed} changed while this stage ran, so its result would be recorded wrongly: run it again")


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str | None:
    """The first dep or setting that differs."""
    deps = {path: before["deps"].get(path) != now["deps"].get(path) for path in before["deps"] | now["deps"]}
    then, values = before["made_by"]["params"], now["made_by"]["params"]
    settings = {
        f"{key} in {file}": value != values.get(file, {}).get(key) for file in then for key, value in then[file].items()
    }
    whole = {"dvc.yaml": before["made_by"] != now["made_by"]}
    return next((name for name, differs in (deps | settings | whole).items() if differs), None)


def _continued(key: str) -> list[dict[str, Any]]:
    """The records of the attempts that a checkpoint comes from: the last one, and those that it has continued.

    Empty if somebody has deleted the records.
    """
    same = [record for record in read_records(SPENT) if record.get("key") == key]
    if not same:
        return []
    return [r for r in same if r["run_id"] in [*same[-1]["continues"], same[-1]["run_id"]]]


def read_records(folder: Path) -> list[dict[str, Any]]:
    """The records in a folder, oldest first. A line on stderr names one that is damaged, by a power failure perhaps."""
    found = []
    for path in folder.glob("*.json"):
        try:
            record = dict(json.loads(path.read_text("utf-8")))
            found.append(((record["started"], record["run_id"]), record))
        except (OSError, ValueError, KeyError, TypeError):
            print(f"{path}: damaged, so the ledger lacks what this attempt has cost", file=sys.stderr)
    return [record for _, record in sorted(found, key=itemgetter(0))]


def _sum(attempts: list[dict[str, Any]]) -> dict[str, Any]:
    """The receipt of a result: the last record, with the cost of all attempts, oldest first."""
    measured = next((attempt for attempt in reversed(attempts) if attempt["kwh"]), attempts[-1])
    return {
        **attempts[-1],
        **{figure: sum(attempt[figure] for attempt in attempts) for figure in SUMMED},
        **{fact: measured[fact] for fact in ("method", "grid_g_per_kwh")},
        "started": attempts[0]["started"],
        "attempts": len(attempts),
    }


def _remove_all_but(checkpoint: Path) -> None:
    """Remove a stage's checkpoints of other settings, code or inputs: nothing will continue them."""
    for other in checkpoint.parent.glob("*"):
        if other != checkpoint:
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _repeated(action: Callable[[], None]) -> Iterator[None]:
    """Call a function every HEARTBEAT seconds, in another thread."""
    ended = threading.Event()

    def repeat() -> None:
        while not ended.wait(HEARTBEAT):
            with suppress(OSError):  # such as a full disk
                action()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _git_commit() -> str:
    """The commit of the code that runs, with `-dirty` if files differ from it; "none" without git."""
    try:
        git = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(git, capture_output=True, encoding="utf-8").stdout.strip() or "none"
    except FileNotFoundError:
        return "none"
