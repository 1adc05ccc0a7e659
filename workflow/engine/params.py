"""The schema of params.yaml. `python -m workflow.engine.params` checks the file, and so does every stage."""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from typing_extensions import TypedDict

from . import dag
from .errors import Problem, brief

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _each_once(values: list[str]) -> list[str]:
    if len(set(values)) < len(values):
        raise PydanticCustomError("twice", "each may occur once")
    return values


def _power_of_two(number: int) -> int:
    if number & (number - 1):
        raise PydanticCustomError("power", "input should be a power of 2")
    return number


def _in_32_bits(number: int) -> int:
    if number >= 2**31:  # PyTorch and others take no more
        raise PydanticCustomError("too_large", "input should be less than 2147483648")
    return number


Count = Annotated[int, Field(ge=1), AfterValidator(_in_32_bits)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Seed = Annotated[int, Field(ge=0), AfterValidator(_in_32_bits)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# The names that pip leaves as they are: it would make `a_b-1.2.3` of `a__b`.
StudentName = Annotated[str, Field(pattern=r"^[a-z0-9]+(_[a-z0-9]+)*$")]  # the end of a wheel's name
PointName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


class _Section(BaseModel):
    model_config = STRICT


class Weights(_Section):
    source: Annotated[
        str, Field(pattern=r"^(pypi:[\w.-]+==[\w.!+-]+(#.+)?|hf:[\w.-]+(/[\w.-]+)?@[\w./-]+(#.+)?|path:.+)$")
    ]
    sha256: dict[str, Sha256]


class Data(_Section):
    folder: str
    dev_fraction: Fraction
    text: Annotated[str, Field(min_length=1)]
    label: Annotated[str, Field(min_length=1)] | None
    exclusive: bool
    on_bad_row: Literal["fail", "skip"]

    @model_validator(mode="after")
    def _has_two_columns(self) -> Data:
        if self.text == self.label:
            raise ValueError("text and label must be two columns")
        return self


class Sentencize(_Section):
    shard_docs: Count


class Wordpiece(_Section):
    spans: Literal["sentence", "document"] | Count
    long_sentences: Literal["window", "truncate"]
    words_per_batch: Count


class Encode(_Section):
    features: bool


class Finetune(_Section):
    head: Literal["auto", "class_vector", "pooler", "mean", "last_hidden", "native"]
    trainable: bool
    train_layers: Count | None
    contrastive: Literal["auto", True, False]
    contrastive_steps: Count
    epochs: Count
    max_steps: Count | None
    evaluate_every: Count | None
    patience: Count | None
    processes: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0)]
    head_learning_rate: Annotated[float, Field(gt=0)] | None
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    schedule: Literal["linear", "cosine", "constant"]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    grad_clip: Annotated[float, Field(ge=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    class_weights: Literal["none", "balanced"]
    calibrate: bool
    choose_thresholds: bool
    shuffle_buffer: Count
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    kernels: bool
    saved_precision: Literal["fp32", "bf16", "fp16"]
    on_divergence: Literal["fail", "best"]


class Learner(_Section):
    architecture: Literal["cnn", "ngrams", "transformer"]
    vectors: Annotated[int, Field(ge=0, le=300)]
    depth: Annotated[int, Field(ge=1, le=8)]
    ngram_size: Annotated[int, Field(ge=1, le=5)]
    buckets: Annotated[int, Field(ge=2, le=2**24), AfterValidator(_power_of_two)]
    gold: Annotated[float, Field(ge=0, le=1)]
    documents: Count
    surest: Count | None
    hard_labels: bool
    epochs: Count
    batch_size: Count
    learning_rate: Annotated[float, Field(gt=0)]
    dropout: Annotated[float, Field(ge=0, lt=1)]


# Point: what a point of the sweep may replace, any setting of `finetune`, and the seed. Student: the same of `distill`.
if TYPE_CHECKING:
    Point = dict[str, Any]
    Student = dict[str, Any]
else:

    def _changes(name: str, section: type[_Section], **more: Any) -> Any:
        hints = get_type_hints(section, include_extras=True)
        changes = TypedDict(name, {key: hints[key] for key in section.model_fields} | more, total=False)
        changes.__pydantic_config__ = STRICT
        return changes

    Point = _changes("Point", Finetune, seed=Seed)
    Student = _changes("Student", Learner)


class Range(_Section):
    """Numbers from low to high; integers if both are."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _is_range(self) -> Range:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        if self.log and self.low <= 0:
            raise ValueError("with log, low must be above 0")
        return self


if TYPE_CHECKING:
    SettingName = str
else:
    SettingName = Literal[tuple(Point.__annotations__)]


Choices = Annotated[list[Any], Field(min_length=1), Tag("choices")]
Values = Annotated[
    Choices | Annotated[Range, Tag("range")],
    Discriminator(lambda value: "range" if isinstance(value, (dict, Range)) else "choices"),
]


class Search(_Section):
    trials: Count
    at_once: Count
    budget_g: Annotated[float, Field(gt=0)] | None
    budget_hours: Annotated[float, Field(gt=0)] | None
    space: Annotated[dict[SettingName, Values], Field(min_length=1)]

    @field_validator("space")
    @classmethod
    def _can_be_points(cls, space: dict[str, Any]) -> dict[str, Any]:
        for name, values in space.items():
            for value in values if isinstance(values, list) else (values.low, values.high):
                try:
                    TypeAdapter(Point).validate_python({name: value})
                except ValidationError as error:
                    message = error.errors()[0]["msg"]
                    raise ValueError(f"{name} cannot be {value!r}: {message[0].lower()}{message[1:]}") from None
        return space


class Evaluate(_Section):
    confidence: Fraction
    resamples: Count
    worst: Annotated[int, Field(ge=0), AfterValidator(_in_32_bits)]


class Annotate(_Section):
    corpora: dict[PointName, Annotated[str, Field(min_length=1)]]
    slice_rows: Count


class Select(_Section):
    corpora: Annotated[list[PointName], AfterValidator(_each_once)]
    rows: Count
    by: Literal["margin", "diversity", "random"]


class Audit(_Section):
    methods: Annotated[list[Literal["features", "finetune"]], AfterValidator(_each_once)]
    folds: Annotated[int, Field(ge=2, le=100)]


class Monitor(_Section):
    corpora: dict[PointName, Annotated[str, Field(min_length=1)]]
    significance: Fraction
    min_accuracy: Fraction | None
    min_agreement: Fraction | None


class Distill(Learner):
    students: dict[StudentName, Student]


class Package(_Section):
    # The names that pip leaves as they are: it would make `a_b-1.2.3` of `a__b` and `01.2.3`.
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9]*(_[a-z0-9]+)*$")]
    version: Annotated[str, Field(pattern=r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}$")]
    description: Annotated[str, Field(pattern=r"^[^\r\n]+$")]


class Carbon(_Section):
    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    pue: Annotated[float, Field(ge=1)]
    budget_g: Annotated[float, Field(gt=0)] | None


class Checkpoints(_Section):
    minutes: Annotated[float, Field(gt=0)]


class Tracking(_Section):
    experiment: Annotated[str, Field(min_length=1)]


class Params(_Section):
    seed: Seed
    threads: Count
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
    weights: Weights
    data: Data
    sentencize: Sentencize
    wordpiece: Wordpiece
    encode: Encode
    finetune: Finetune
    select_by: Literal["accuracy", "macro_f1", "log_loss"]
    sweep: Annotated[dict[PointName, Point], Field(min_length=1)]
    search: Search
    evaluate: Evaluate
    package: Package
    package_weights: Package
    annotate: Annotate
    select: Select
    audit: Audit
    monitor: Monitor
    distill: Distill
    carbon: Carbon
    checkpoints: Checkpoints
    tracking: Tracking


DEEPEST = 20  # levels of nesting; the schema has three
MOST = 10  # errors in one message


def load(path: Path = Path("params.yaml")) -> Params:
    """Raises Problem that names each wrong key, its value and what is allowed."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise Problem(f"{path} not found: run this in the root folder of the project") from None
    except OSError as error:
        raise Problem(f"{path} cannot be read: {error.strerror}") from None
    try:
        _check_depth(content)
        raw = dag.parse(content)
    except Exception as error:  # YAML's own, and any that Python raises for the likes of `!!int ""` or 2024-02-31
        raise Problem(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        errors = error.errors()
        more = f"; and {len(errors) - MOST} more" if len(errors) > MOST else ""
        raise Problem("; ".join(_explain(path, e) for e in errors[:MOST]) + more) from None


def _check_depth(content: bytes) -> None:
    """Raises ValueError if YAML is nested so deeply that its parser, which is recursive, would end the process."""
    depth = 0
    for event in YAML(typ="safe").parse(content):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"nested more than {DEEPEST} levels deep")


SCALARS = (bool, int, float, datetime.date)  # what YAML makes of a text without quotes


def _explain(path: Path, error: Any) -> str:
    key = ".".join(map(str, error["loc"]))[:200] or "the file"
    if error["type"] == "extra_forbidden":
        return f"{path}: unknown key {key} (allowed: {', '.join(_keys_beside(error['loc']))})"
    if error["type"] == "missing":
        return f"{path}: the key {key} is missing"
    key = key.removesuffix(".[key]")
    is_text_without_quotes = error["type"] in ("string_type", "invalid_key") and isinstance(error["input"], SCALARS)
    hint = f" (YAML reads it as {type(error['input']).__name__}; put it in quotes)" if is_text_without_quotes else ""
    return f"{path}: {key} is {brief(error['input'])}: {error['msg'][0].lower()}{error['msg'][1:]}{hint}"


def _keys_beside(location: tuple[str, ...]) -> list[str]:
    """The keys that are allowed where an unknown one was found."""
    if location[0] == "sweep":
        return list(Point.__annotations__)
    if location[:2] == ("distill", "students"):
        return list(Student.__annotations__)
    if location[:2] == ("search", "space"):
        return list(Range.model_fields)
    section: Any = Params
    for name in location[:-1]:
        section = section.model_fields[name].annotation
    return list(section.model_fields)


def check(with_git: bool = False) -> None:
    """Exit before any stage runs if params.yaml is wrong: DVC and Snakemake would name a file, but not the key.

    with_git: also if there is no Git repository, which DVC expects.
    """
    try:
        settings = load()
        _check_folders(settings)
        if settings.package.name == settings.package_weights.name:
            name = settings.package.name
            raise Problem(f"params.yaml: package.name and package_weights.name are both {name!r}: two wheels, one name")
        for corpus in settings.select.corpora:
            if corpus not in settings.annotate.corpora:
                raise Problem(f"params.yaml: select.corpora has {corpus!r}, but annotate.corpora has not")
        for name, source in settings.monitor.corpora.items():  # DVC would run all stages before it says so
            if not Path(source).exists():
                raise Problem(f"params.yaml: monitor.corpora.{name} is {source!r}: not found")
        if with_git:
            _check_git()
    except Problem as problem:
        sys.exit(f"error: {problem}")


def _check_folders(settings: Params) -> None:
    """Raises Problem unless data.folder exists, and no stage writes into it or around it, or around path:WEIGHTS."""
    scheme, _, weights = settings.weights.source.partition(":")
    written = {Path(*Path(out).parts[:2]) for stage in dag.load().values() for out in stage.outs}  # such as data/model
    read = {"data.folder": settings.data.folder, "weights.source": weights}
    for section, corpora in {"annotate": settings.annotate.corpora, "monitor": settings.monitor.corpora}.items():
        read |= {f"{section}.corpora.{name}": source for name, source in corpora.items()}
    for key, folder in read.items():
        if key == "weights.source" and scheme != "path":
            continue
        try:
            os.fsencode(folder)
        except UnicodeEncodeError:
            raise Problem(f"params.yaml: {key} is {folder!r}, but names are ASCII here: set PYTHONUTF8=1") from None
        try:
            path = Path(folder).expanduser().resolve()
            is_folder = path.is_dir()
        except (OSError, RuntimeError, ValueError) as error:  # `~nobody`, or a NUL character
            raise Problem(f"params.yaml: {key} is {folder!r}: no folder has this name ({error})") from None
        for out in sorted(written):
            if path.is_relative_to(out.resolve()) or out.resolve().is_relative_to(path):
                raise Problem(f"params.yaml: {key} is {folder!r}, but stages write {out}: choose another folder")
        if key == "data.folder" and not is_folder:
            raise Problem(f"params.yaml: data.folder is {folder!r}: folder not found")


def _check_git() -> None:
    """Raises Problem if DVC expects a Git repository and there is none."""
    here = Path.cwd()
    if any((folder / ".git").exists() for folder in (here, *here.parents)):
        return
    from dvc.config import Config  # type: ignore[import-untyped]

    if not Config.from_cwd()["core"].get("no_scm"):
        raise Problem(
            "no Git repository here, which DVC expects: run `git init`, or "
            "`dvc config --local core.no_scm true` to work without Git"
        )


if __name__ == "__main__":
    check(with_git=True)
