"""Slices of unlabelled text: ranges of rows of a file, each annotated by a job of its own.

A slice keeps its name and its rows when rows are added at the end of its file, or files beside it: only what is new is
annotated. workflow/slices.yaml lists the slices, and dvc.yaml makes a stage of each.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..engine import dag
from ..engine.errors import Problem
from ..engine.params import Data
from . import rows

LIST = Path("workflow/slices.yaml")
ANNOTATED = "rows.jsonl.gz"  # of a slice: its rows with what is predicted


@dataclass(frozen=True)
class Slice:
    file: str
    first: int  # rows of the file before it, blank lines among them
    rows: int
    sha256: str  # of its rows


def load() -> dict[str, Slice]:
    """The slices by name."""
    return {name: Slice(**content) for name, content in dag.parse(LIST.read_bytes())["slices"].items()}


def files(source: Path) -> tuple[list[Path], list[Path]]:
    """The files of a corpus, and those that are left out because no reader knows their suffix."""
    if source.is_file():
        return [source], []
    found = sorted(path for path in source.rglob("*") if path.is_file())
    known = rows.READERS | rows.UNLABELLED
    return [path for path in found if path.suffix in known], [path for path in found if path.suffix not in known]


def read(source: Path, data: Data, tally: rows.Tally) -> Iterator[rows.Record]:
    """The rows of a file, or of the files of a folder."""
    for path in files(source)[0]:
        parsed = rows.parse(path, names=rows.Names.of(data))
        yield from rows.read_unlabelled(path, parsed, on_bad_row=data.on_bad_row, tally=tally)


def cut(
    corpus: str, source: Path, n_rows: int, seen: dict[str, Any], names: rows.Names = rows.PLAIN
) -> dict[str, Slice]:
    """The slices of a file, or of the files of a folder. Raises Problem if there is none, or a file cannot be read.

    seen: what is known of files from earlier calls, so that one that has not changed is not read again.
    """
    found = {}
    for path in files(source)[0]:
        name = path.name if path == source else path.relative_to(source).as_posix()
        if not str(path).isprintable():
            raise Problem(
                f"annotate.corpora.{corpus}: the file {str(path)!r} has a name with odd characters: rename it"
            )
        file_key = hashlib.sha256(name.encode()).hexdigest()[:16]
        try:
            state = [path.stat().st_size, path.stat().st_mtime_ns, n_rows, *names]
            if seen.get(str(path), {}).get("state") != state:
                seen[str(path)] = {"state": state, "slices": [asdict(part) for part in _cut_file(path, n_rows, names)]}
        except OSError as error:
            raise Problem(f"{path}: cannot be read ({error.strerror or error})") from None
        for number, part in enumerate(seen[str(path)]["slices"]):
            found[f"{corpus}_{file_key}_{number:05}"] = Slice(**part)
    if not found:
        known = ", ".join(rows.READERS | rows.UNLABELLED)
        raise Problem(f"params.yaml: annotate.corpora.{corpus}: {source} has no rows in {known}")
    return found


def _cut_file(path: Path, n_rows: int, names: rows.Names) -> Iterator[Slice]:
    parsed = rows.parse(path, names=names)
    first = 0
    for begin in parsed:
        sha256 = hashlib.sha256()
        n = sum(1 for _ in _hashed(chain([begin], islice(parsed, n_rows - 1)), sha256))
        yield Slice(str(path), first, n, sha256.hexdigest())
        first += n


def records(part: Slice, names: rows.Names = rows.PLAIN) -> rows.Parsed:
    """The rows of a slice. Raises Problem, after the last, if they are not those that were cut."""
    sha256 = hashlib.sha256()
    yield from _hashed(islice(rows.parse(Path(part.file), names=names), part.first, part.first + part.rows), sha256)
    if sha256.hexdigest() != part.sha256:
        raise Problem(f"{part.file}: rows that were there have changed: `make repro` cuts it anew")


def _hashed(parsed: rows.Parsed, sha256: Any) -> rows.Parsed:
    for number, parse in parsed:
        sha256.update(_content(parse))
        yield number, parse


def _content(parse: Callable[[], dict[str, Any]] | None) -> bytes:
    try:
        return repr(parse and parse()).encode("utf-8", "surrogatepass")
    except rows.BadRow:  # whose words depend on Python's version
        return b"a bad row"


def annotated(folder: Path, corpus: str | None = None) -> list[Path]:
    """The folders of annotated slices, of all corpora or of one."""
    parts = sorted(path for path in folder.glob("*_*_*") if path.is_dir())
    return [part for part in parts if corpus is None or part.name.rsplit("_", 2)[0] == corpus]


def annotated_rows(part: Path) -> Iterator[dict[str, Any]]:
    """The rows that `annotate` has left for a slice."""
    with gzip.open(part / ANNOTATED, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def write(slices: dict[str, Slice]) -> None:
    """Write the list, if it differs."""
    lines = [f'  "{name}": {json.dumps(asdict(part), ensure_ascii=False)}' for name, part in slices.items()]
    text = "\n".join([HEADING, "slices:" if lines else "slices: {}", *lines, ""])
    if not LIST.is_file() or LIST.read_text("utf-8") != text:
        part = LIST.with_name(f".{LIST.name}.{os.getpid()}.part")
        part.write_text(text, "utf-8")
        part.replace(LIST)


HEADING = (
    "# Generated from annotate.corpora in params.yaml (`make repro`): the slices, each a job of the stage `annotate`."
)
