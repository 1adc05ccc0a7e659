"""Slices of unlabelled text: ranges of rows of a file, each annotated by a job of its own.

A slice keeps its name and its rows when rows are added at the end of its file, or files beside it: only what is new is
annotated. workflow/slices.yaml lists the slices, and dvc.yaml makes a stage of each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..engine import dag
from ..engine.errors import Problem
from . import rows

LIST = Path("workflow/slices.yaml")


@dataclass(frozen=True)
class Slice:
    file: str
    first: int  # rows of the file before it, blank lines among them
    rows: int
    sha256: str  # of its rows


def load() -> dict[str, Slice]:
    """The slices by name."""
    return {name: Slice(**content) for name, content in dag.parse(LIST.read_bytes())["slices"].items()}


def cut(corpus: str, source: Path, n_rows: int, seen: dict[str, Any]) -> dict[str, Slice]:
    """The slices of a file, or of the files of a folder. Raises Problem if there is none.

    seen: what is known of files from earlier calls, so that one that has not changed is not read again.
    """
    known = rows.READERS | rows.UNLABELLED
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.suffix in known)
    found = {}
    for path in files:
        name = path.name if path == source else path.relative_to(source).as_posix()
        file_key = hashlib.sha256(name.encode()).hexdigest()[:8]
        state = [path.stat().st_size, path.stat().st_mtime_ns, n_rows]
        if seen.get(str(path), {}).get("state") != state:
            seen[str(path)] = {"state": state, "slices": [asdict(part) for part in _cut_file(path, n_rows)]}
        for number, part in enumerate(seen[str(path)]["slices"]):
            found[f"{corpus}_{file_key}_{number:05}"] = Slice(**part)
    if not found:
        raise Problem(f"params.yaml: annotate.corpora.{corpus}: {source} has no rows in {', '.join(known)}")
    return found


def _cut_file(path: Path, n_rows: int) -> Iterator[Slice]:
    parsed = rows.parse(path)
    first = 0
    for begin in parsed:
        sha256 = hashlib.sha256()
        n = sum(1 for _ in _hashed(chain([begin], islice(parsed, n_rows - 1)), sha256))
        yield Slice(str(path), first, n, sha256.hexdigest())
        first += n


def records(part: Slice) -> rows.Parsed:
    """The rows of a slice. Raises Problem, after the last, if they are not those that were cut."""
    sha256 = hashlib.sha256()
    yield from _hashed(islice(rows.parse(Path(part.file)), part.first, part.first + part.rows), sha256)
    if sha256.hexdigest() != part.sha256:
        raise Problem(f"{part.file}: rows that were there have changed: `make repro` cuts it anew")


def _hashed(parsed: rows.Parsed, sha256: Any) -> rows.Parsed:
    for number, parse in parsed:
        sha256.update(_content(parse))
        yield number, parse


def _content(parse: Callable[[], dict[str, Any]] | None) -> bytes:
    try:
        return repr(parse and parse()).encode("utf-8", "surrogatepass")
    except rows.BadRow as reason:
        return str(reason).encode("utf-8", "surrogatepass")


def write(slices: dict[str, Slice]) -> None:
    """Write the list, if it differs."""
    lines = [f"  {name}: {json.dumps(asdict(part), ensure_ascii=False)}" for name, part in slices.items()]
    text = "\n".join([HEADING, "slices:" if lines else "slices: {}", *lines, ""])
    if not LIST.is_file() or LIST.read_text("utf-8") != text:
        part = LIST.with_name(f".{LIST.name}.part")
        part.write_text(text, "utf-8")
        part.replace(LIST)


HEADING = (
    "# Generated from annotate.corpora in params.yaml (`make repro`): the slices, each a job of the stage `annotate`."
)
