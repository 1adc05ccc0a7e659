"""dvc.yaml as DVC resolves it, read in milliseconds: what each stage is called, runs, needs and leaves."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

UNTRACKED = {".snakemake_timestamp", "MODEL_CARD.md", "__pycache__"}  # in no digest: as .dvcignore has it


@dataclass(frozen=True)
class Stage:
    """A stage under the name that DVC gives it: `finetune@base` is the point `base` of the stage `finetune`."""

    name: str
    cmd: str | list[str]
    deps: list[str]
    outs: list[str]
    params: dict[str, Any]  # the values in params.yaml that it depends on
    meta: dict[str, Any]


def load(folder: Path = Path()) -> dict[str, Stage]:
    """The stages of a project, as dvc.yaml orders them."""
    values = yaml.safe_load((folder / "params.yaml").read_text("utf-8")) or {}
    written = yaml.safe_load((folder / "dvc.yaml").read_text("utf-8"))["stages"]
    found = [stage for name, content in written.items() for stage in _expand(name, content, values)]
    return {stage.name: stage for stage in found}


def inputs(stage: Stage, stages: dict[str, Stage]) -> list[str]:
    """The files and folders that a stage needs; for a folder that stages fill together, what each of them leaves."""
    made = [out for other in stages.values() for out in other.outs]
    parts = {dep: [out for out in made if out.startswith(f"{dep}/")] for dep in stage.deps}
    return [path for dep in stage.deps for path in parts[dep] or [dep]]


def needs(stage: Stage, stages: dict[str, Stage]) -> list[str]:
    """The stages whose results a stage takes."""
    taken = set(inputs(stage, stages))
    return [other.name for other in stages.values() if taken & set(other.outs)]


def chain(stage: Stage, stages: dict[str, Stage]) -> list[str]:
    """A stage, after all the stages that lead to it."""
    found = {stage.name}
    for name in needs(stage, stages):
        found.update(chain(stages[name], stages))
    return [name for name in stages if name in found]


def _expand(name: str, content: dict[str, Any], values: dict[str, Any]) -> list[Stage]:
    """The stages that a `foreach` or a `matrix` stands for, or the one that it is."""
    if "foreach" in content:
        items = _fill(content["foreach"], values)
        pairs = items.items() if isinstance(items, dict) else [(None, item) for item in items]
        return [
            _stage(f"{name}@{_text(item) if key is None else key}", content["do"], {**values, "item": item, "key": key})
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
            stages.append(_stage(f"{name}@{key}", rest, {**values, "item": item, "key": key}))
        return stages
    return [_stage(name, content, values)]


def _stage(name: str, content: dict[str, Any], values: dict[str, Any]) -> Stage:
    filled = _fill(content, values)
    return Stage(
        name=name,
        cmd=filled["cmd"],
        deps=_paths(filled.get("deps", [])),
        outs=_paths(filled.get("outs", [])),
        params={key: look_up(key, values) for key in filled.get("params", [])},
        meta=filled.get("meta", {}),
    )


def _paths(entries: list[str | dict[str, Any]]) -> list[str]:
    """An entry may have settings: `- data/x: {cache: false}`."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


REFERENCE = re.compile(r"\$\{\s*([\w.\[\]-]+)\s*\}")


def _fill(content: Any, values: dict[str, Any]) -> Any:
    """Put values in place of `${...}`: whole where nothing stands around it, as text else."""
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
    found: Any = values
    for part in re.findall(r"[\w-]+", key):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
