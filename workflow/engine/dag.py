"""Read dvc.yaml and resolve it as DVC does, but in milliseconds: each stage's name, command, deps, params and outs."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from .errors import Problem, brief

PARAMS = "params.yaml"


@dataclass(frozen=True)
class Stage:
    """A stage, named as in DVC: `finetune@base` is the point `base` of the stage `finetune`."""

    name: str
    cmd: str | list[str]
    deps: list[str]
    outs: list[str]
    params: dict[str, dict[str, Any]]  # the values that the stage depends on, by file and key
    meta: dict[str, Any]


def load(folder: Path = Path()) -> dict[str, Stage]:
    """The stages of a project, in the order of dvc.yaml. Raises Problem if it cannot be resolved."""
    try:
        return _load(folder)
    except Problem:
        raise
    except Exception as error:  # DVC checks the file with a schema, and says more
        raise Problem(f"dvc.yaml: {brief(str(error))} ({type(error).__name__}): `dvc stage list` says where") from error


def _load(folder: Path) -> dict[str, Stage]:
    dvc, values = _read(folder, "dvc.yaml"), _read(folder, PARAMS)
    for file in dvc.get("vars", []):
        values = values | _read(folder, file)
    resolved = [stage for name, content in dvc["stages"].items() for stage in _expand(name, content, values)]
    stages = [_stage(name, content, folder) for name, content in resolved]
    return {stage.name: stage for stage in stages}


def inputs(stage: Stage, stages: dict[str, Stage]) -> list[str]:
    """The files and folders that a stage reads; a folder that several stages write to is replaced by their outs."""
    outs_inside = _by_folder(tuple(out for other in stages.values() for out in other.outs))
    return [path for dep in stage.deps for path in outs_inside.get(dep) or [dep]]


@cache  # there may be thousands of stages, and this is asked for each
def _by_folder(outs: tuple[str, ...]) -> dict[str, list[str]]:
    """The outs inside each folder, at any depth."""
    found: dict[str, list[str]] = {}
    for out in outs:
        for folder in Path(out).parents:
            found.setdefault(folder.as_posix(), []).append(out)
    return found


def needs(stage: Stage, stages: dict[str, Stage]) -> list[str]:
    """The stages whose outs a stage reads."""
    read = set(inputs(stage, stages))
    return [other.name for other in stages.values() if not read.isdisjoint(other.outs)]


def chain(stage: Stage, stages: dict[str, Stage]) -> list[str]:
    """A stage and all stages before it, in the order of the DAG."""
    names, waiting = {stage.name}, [stage]
    while waiting:
        new = set(needs(waiting.pop(), stages)) - names
        names |= new
        waiting += [stages[name] for name in new]
    return [name for name in stages if name in names]


def _expand(name: str, content: dict[str, Any], values: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Name and content of each stage that a `foreach` or `matrix` generates, or of the stage itself."""
    if "foreach" in content:
        items = _interpolate(content["foreach"], values)
        pairs = items.items() if isinstance(items, dict) else [(None, item) for item in items]
        return [
            (
                f"{name}@{_text(item) if key is None else key}",
                _interpolate(content["do"], {**values, "item": item, "key": key}),
            )
            for key, item in pairs
        ]
    if "matrix" in content:
        axes = _interpolate(content["matrix"], values)
        template = {key: value for key, value in content.items() if key != "matrix"}
        stages = []
        for indices in itertools.product(*(range(len(axis)) for axis in axes.values())):
            item = {axis: axes[axis][index] for axis, index in zip(axes, indices, strict=True)}
            parts = [
                f"{axis}{index}" if isinstance(item[axis], list | dict) else _text(item[axis])
                for axis, index in zip(axes, indices, strict=True)
            ]
            key = "-".join(parts)
            stages.append((f"{name}@{key}", _interpolate(template, {**values, "item": item, "key": key})))
        return stages
    return [(name, _interpolate(content, values))]


def _stage(name: str, content: dict[str, Any], folder: Path) -> Stage:
    keys: dict[str, list[str]] = {}
    for entry in content.get("params", []):  # a key of params.yaml, or {file: keys}
        for file, listed in entry.items() if isinstance(entry, dict) else [(PARAMS, [entry])]:
            keys.setdefault(file, []).extend(listed)
    return Stage(
        name=name,
        cmd=content["cmd"],
        deps=_paths(content.get("deps", [])),
        outs=_paths(content.get("outs", [])),
        params={file: {key: look_up(key, _read(folder, file)) for key in listed} for file, listed in keys.items()},
        meta=content.get("meta", {}),
    )


def _paths(entries: list[str | dict[str, Any]]) -> list[str]:
    """Paths of deps or outs; an entry may have settings: `- data/x: {cache: false}`."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def _read(folder: Path, file: str) -> dict[str, Any]:
    return parse((folder / file).read_bytes())


@cache
def parse(content: bytes) -> dict[str, Any]:
    """YAML as DVC reads it, with DVC's own parser: others take `1e5` for text and `yes` for a truth value."""
    return YAML(typ="safe").load(content) or {}


REFERENCE = re.compile(r"\$\{\s*([\w.\[\]-]+)\s*\}")


def _interpolate(content: Any, values: dict[str, Any]) -> Any:
    """Replace `${...}` by values: the value itself if the reference is the whole string, else its text."""
    if isinstance(content, dict):
        return {_interpolate(key, values): _interpolate(value, values) for key, value in content.items()}
    if isinstance(content, list):
        return [_interpolate(value, values) for value in content]
    if not isinstance(content, str):
        return content
    whole = REFERENCE.fullmatch(content)
    if whole:
        return look_up(whole[1], values)
    return REFERENCE.sub(lambda match: _text(look_up(match[1], values)), content)


def look_up(key: str, values: dict[str, Any]) -> Any:
    """The value of a key such as `finetune.epochs` or `numbers[1]`."""
    value: Any = values
    try:
        for part in re.findall(r"[\w-]+", key):
            value = value[int(part)] if isinstance(value, list) else value[part]
    except (LookupError, TypeError, ValueError):
        raise Problem(f"dvc.yaml: params.yaml has no {key}") from None
    return value


def _text(value: Any) -> str:
    """A value as DVC writes it into a string."""
    return str(value).lower() if isinstance(value, bool) else str(value)
