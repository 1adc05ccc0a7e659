"""Cut the corpora of `annotate` in params.yaml into slices, before `make repro` or Snakemake reads the DAG."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .corpus import slices
from .corpus.slices import Slice
from .engine import params
from .engine.errors import Problem, printable
from .engine.stage import RETIRED
from .files import write_json

SEEN = Path("data/slices.json")  # what is known of files; no result
ANNOTATED = Path("data/annotated")


def refresh() -> None:
    """Bring workflow/slices.yaml up to date. Raises Problem if a corpus cannot be read."""
    settings = params.load().annotate
    before = _unless_damaged(slices.load)
    if not settings.corpora and before == {}:
        return
    remembered = _unless_damaged(lambda: dict(json.loads(SEEN.read_text("utf-8")))) or {}
    seen: dict[str, Any] = {}
    found: dict[str, Slice] = {}
    for corpus, source in settings.corpora.items():
        path = Path(source)
        if path.exists():
            known = {str(file): remembered[str(file)] for file in slices.files(path)[0] if str(file) in remembered}
            cut = slices.cut(corpus, path, settings.slice_rows, known)
            found, seen = found | cut, seen | known
            _say(corpus, path, cut)
        else:
            kept = {name: part for name, part in (before or {}).items() if name.rsplit("_", 2)[0] == corpus}
            if not kept:
                raise Problem(f"params.yaml: annotate.corpora.{corpus} is {source!r}: not found")
            said = f"{source} is not here: the {len(kept)} slices of {corpus} stay as workflow/slices.yaml has them"
            print(said, file=sys.stderr)
            found |= kept
    write_json(SEEN, seen)
    slices.write(found)
    for folder in sorted(ANNOTATED.glob("*")):
        if folder.name not in found:  # of rows that are no longer there
            target = RETIRED / ANNOTATED.name / folder.name
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, target)


def _unless_damaged(read: Callable[[], Any]) -> Any:
    """What `read` returns; None if a file is missing, or damaged by a power failure or a merge."""
    try:
        return read()
    except Exception:  # of any kind that parsers raise
        return None


def _say(corpus: str, source: Path, cut: dict[str, Slice]) -> None:
    chosen, others = slices.files(source)
    rows = sum(part.rows for part in cut.values())
    left_out = f"; left out: {len(others)} files, such as {others[0].name}" if others else ""
    line = f"{corpus}: {rows:,} rows in {len(chosen)} files, {len(cut)} slices{left_out}"
    print(printable(line), file=sys.stderr)


def main() -> None:
    try:
        refresh()
    except Problem as problem:
        sys.exit(f"error: {problem}")


if __name__ == "__main__":
    main()
