"""Cut the corpora of `annotate` in params.yaml into slices, before `make repro` or Snakemake reads the DAG."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .corpus import slices
from .corpus.rows import Names
from .corpus.slices import Slice
from .engine import params
from .engine.errors import Problem, printable
from .engine.stage import in_one_line, retire
from .files import write_json

SEEN = Path("data/slices.json")  # what is known of files; no result
ANNOTATED = Path("data/annotated")


def refresh() -> None:
    """Bring workflow/slices.yaml up to date. Raises Problem if a corpus cannot be read."""
    loaded = params.load()
    settings = loaded.annotate
    if loaded.distill.students:  # a dep of `distill`, also if no corpus is annotated
        ANNOTATED.mkdir(parents=True, exist_ok=True)
    before = _unless_damaged(slices.load)
    if not settings.corpora and before == {}:
        return _retire_all_but(set())
    names = Names.of(loaded.data)
    remembered = _unless_damaged(lambda: dict(json.loads(SEEN.read_text("utf-8")))) or {}
    seen: dict[str, Any] = {}
    found: dict[str, Slice] = {}
    for corpus, source in settings.corpora.items():
        path = Path(source)
        if path.exists():
            cut = slices.cut(corpus, path, settings.slice_rows, remembered, names)
            seen |= {part.file: remembered[part.file] for part in cut.values()}
            found |= cut
            _say(corpus, path, cut)
        else:
            kept = {name: part for name, part in (before or {}).items() if name.rsplit("_", 2)[0] == corpus}
            if not kept:
                raise Problem(f"params.yaml: annotate.corpora.{corpus} is {source!r}: not found")
            said = f"{source} is not here: the {len(kept)} slices of {corpus} stay as workflow/slices.yaml has them"
            print(printable(said), file=sys.stderr)
            found |= kept
    write_json(SEEN, seen)
    slices.write(found)
    _retire_all_but(set(found))


def _retire_all_but(slices: set[str]) -> None:
    """Move the results of slices that are no longer there: `distill` and `select` read all that are."""
    for folder in sorted(path for path in ANNOTATED.glob("*") if path.is_dir()):
        if folder.name not in slices:
            retire(folder)


def _unless_damaged(read: Callable[[], Any]) -> Any:
    """What `read` returns; None if a file is missing, or damaged by a power failure or a merge."""
    try:
        return read()
    except Exception:  # of any kind that parsers raise
        return None


def _say(corpus: str, source: Path, cut: dict[str, Slice]) -> None:
    """How much a corpus has, and which of its files no reader knows."""
    _, others = slices.files(source)
    n_rows, n_files = sum(part.rows for part in cut.values()), len({part.file for part in cut.values()})
    left_out = f"; left out: {len(others)} files, such as {others[0].name}" if others else ""
    print(printable(f"{corpus}: {n_rows:,} rows in {n_files} files, {len(cut)} slices{left_out}"), file=sys.stderr)


def main() -> None:
    try:
        refresh()
    except Exception as error:
        if not (said := in_one_line(error)):
            raise
        sys.exit(f"error: {said}")


if __name__ == "__main__":
    main()
