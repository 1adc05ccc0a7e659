"""Read dvc.yaml as DVC resolves it, in milliseconds: each stage's name, command, deps, params and outs."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PARAMS = "params.yaml"


@dataclass(frozen=True)
class Stage:
    """A stage, named as in DVC: `finetune@base` is the point `base` of the stage `finetune`."""

    name: str
    cmd: str | list[str]
    deps: list[str]
    outs: list[str]
    params: dict[str, dict[str, Any]]  # the values that it depends on, by file and key
    meta: dict[str, Any]


def load(folder: Path = Path()) -> dict[str, Stage]:
    """The stages of a project, in the order of dvc.yaml."""
    written = yaml.safe_load((folder / "dvc.yaml").read_text("utf-8"))["stages"]
    values = _read(folder, PARAMS)
    filled = [stage for name, content in written.items() for stage in _expand(name, content, values)]
    stages = [_stage(name, content, folder) for name, content in filled]
    return {stage.name: stage for stage in stages}


def inputs(stage: Stage, stages: dict[str, Stage]) -> list[str]:
    """The files and folders that a stage reads; a folder that several stages fill is replaced by their outs."""
    made = [out for other in stages.values() for out in other.outs]
    parts = {dep: [out for out in made if out.startswith(f"{dep}/")] for dep in stage.deps}
    return [path for dep in stage.deps for path in parts[dep] or [dep]]


def needs(stage: Stage, stages: dict[str, Stage]) -> list[str]:
    """The stages whose outs a stage reads."""
    read = set(inputs(stage, stages))
    return [other.name for other in stages.values() if read & set(other.outs)]


def chain(stage: Stage, stages: dict[str, Stage]) -> list[str]:
    """A stage and all stages before it, in the order of the DAG."""
    found = {stage.name}
    for name in needs(stage, stages):
        found.update(chain(stages[name], stages))
    return [name for name in stages if name in found]


def _expand(name: str, content: dict[str, Any], values: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and content of each stage that a `foreach` or `matrix` generates, or of the stage itself."""
    if "foreach" in content:
        items = _fill(content["foreach"], values)
        pairs = items.items() if isinstance(items, dict) else [(None, item) for item in items]
        return [
            (
                f"{name}@{_text(item) if key is None else key}",
                _fill(content["do"], {**values, "item": item, "key": key}),
            )
            for key, item in pairs
        ]
    if "matrix" in content:
        axes = _fill(content["matrix"], values)
        rest = {key: value for key, value in content.items() if key != "matrix"}
        stages = []
        for places in itertools.product(*(range(len(axis)) for axis in axes.values())):
            item = {axis: axes[axis][place] for axis, place in zip(axes, places, strict=True)}
            marks = [
                f"{axis}{place}" if isinstance(item[axis], list | dict) else _text(item[axis])
                for axis, place in zip(axes, places, strict=True)
            ]
            key = "-".join(marks)
            stages.append((f"{name}@{key}", _fill(rest, {**values, "item": item, "key": key})))
        return stages
    return [(name, _fill(content, values))]


def _stage(name: str, content: dict[str, Any], folder: Path) -> Stage:
    keys: dict[str, list[str]] = {}
    for entry in content.get("params", []):  # a key of params.yaml, or {file: keys}
        for file, named in entry.items() if isinstance(entry, dict) else [(PARAMS, [entry])]:
            keys.setdefault(file, []).extend(named)
    return Stage(
        name=name,
        cmd=content["cmd"],
        deps=_paths(content.get("deps", [])),
        outs=_paths(content.get("outs", [])),
        params={file: {key: look_up(key, _read(folder, file)) for key in named} for file, named in keys.items()},
        meta=content.get("meta", {}),
    )


def _paths(entries: list[str | dict[str, Any]]) -> list[str]:
    """An entry may have settings: `- data/x: {cache: false}`."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def _read(folder: Path, file: str) -> dict[str, Any]:
    return _parse((folder / file).read_bytes())


@cache
def _parse(content: bytes) -> dict[str, Any]:
    return yaml.safe_load(content) or {}


REFERENCE = re.compile(r"\$\{\s*([\w.\[\]-]+)\s*\}")


def _fill(content: Any, values: dict[str, Any]) -> Any:
    """Replace `${...}` by values: by the value itself if it is the whole string, else by its text."""
    if isinstance(content, dict):
        return {_fill(key, values): _fill(value, values) for key, value in content.items()}
    if isinstance(content, list):
        return [_fill(value, values) for value in content]
    if not isinstance(content, str):
        return content
    whole = REFERENCE.fullmatch(content)
    if whole:
        return look_up(whole[1], values)
    return REFERENCE.sub(lambda match: _text(look_up(match[1], values)), content)


def look_up(key: str, values: dict[str, Any]) -> Any:
    """key: such as `finetune.epochs` or `numbers[1]`."""
    found: Any = values
    for part in re.findall(r"[\w-]+", key):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
