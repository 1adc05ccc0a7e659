"""Cut the corpora of `annotate` in params.yaml into slices, before `make repro` or Snakemake reads the DAG."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from .corpus import slices
from .corpus.slices import Slice
from .engine import params
from .engine.errors import Problem
from .files import write_json

SEEN = Path("data/slices.json")  # what is known of files; no result


def refresh() -> None:
    """Bring workflow/slices.yaml up to date. Raises Problem if a corpus cannot be read."""
    settings = params.load().annotate
    before = slices.load()
    if not settings.corpora and not before:
        return
    seen = json.loads(SEEN.read_text("utf-8")) if SEEN.is_file() else {}
    found: dict[str, Slice] = {}
    for corpus, source in settings.corpora.items():
        path = Path(source)
        if path.exists():
            found |= slices.cut(corpus, path, settings.slice_rows, seen)
        else:
            known = {
                name: part for name, part in before.items() if name.rpartition("_")[0].rpartition("_")[0] == corpus
            }
            if not known:
                raise Problem(f"params.yaml: annotate.corpora.{corpus} is {source!r}: not found")
            print(f"{source} is not here: the {len(known)} slices of {corpus} stay as workflow/slices.yaml has them")
            found |= known
    write_json(SEEN, seen)
    slices.write(found)


def main() -> None:
    try:
        refresh()
    except Problem as problem:
        sys.exit(f"partition: error: {problem}")


if __name__ == "__main__":
    main()
