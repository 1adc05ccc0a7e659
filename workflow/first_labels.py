"""Choose the first texts to label: `python -m workflow.first_labels FILE --labels A B > tasks.jsonl`.

There is no model yet. The chosen texts represent all others: each is at the centre of a cluster of vectors from the
pretrained transformer.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .corpus import rows, slices, tasks
from .corpus.rows import Tally
from .engine import command, params
from .engine.errors import Problem
from .engine.params import Data, Params

WEIGHTS = Path("data/weights")


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m workflow.first_labels", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="FILE", help="rows without labels, or a folder of such files"
    )
    parser.add_argument("--labels", nargs="+", required=True, help="what annotators may choose")
    parser.add_argument("--rows", type=int, default=100, help="texts to choose; 100 by default")
    arguments = parser.parse_args()
    if arguments.rows < 1:
        parser.error("--rows must be 1 or more")
    settings = params.load()
    if not (WEIGHTS / "config.json").is_file():
        raise Problem("data/weights is missing: `dvc repro download_weights` fetches it")
    texts = read(arguments.sources, settings.data)
    for text in choose(texts, min(arguments.rows, len(texts)), settings):
        print(json.dumps(tasks.task(text, arguments.labels, settings.data.exclusive, [], {}), ensure_ascii=False))
    sys.stdout.flush()  # here, where an error has its one line


def read(sources: Iterable[Path], data: Data) -> list[str]:
    """The texts of files and folders, each once."""
    texts: dict[str, None] = {}
    tally = Tally(log=partial(print, file=sys.stderr))
    for source in sources:
        if not source.exists():
            raise Problem(f"{source}: not found")
        if not slices.files(source)[0]:
            raise Problem(f"{source} has no rows in {', '.join(rows.READERS | rows.UNLABELLED)}")
        texts |= {record.text: None for record in slices.read(source, data, tally)}
    if not texts:
        raise Problem("there is no row with a text")
    return list(texts)


def choose(texts: list[str], n: int, settings: Params) -> list[str]:
    from .model import choice, vectors  # import PyTorch, which takes seconds: not before the texts are read
    from .model.determinism import make_deterministic
    from .model.pipeline import build

    make_deterministic(settings)
    nlp, rng = build(settings, WEIGHTS, []), np.random.default_rng(settings.seed)

    def vectors_of(found: np.ndarray) -> np.ndarray:
        return vectors.of_texts(nlp, tqdm([texts[i] for i in found], "read", unit=" texts", disable=None))

    chosen = choice.by_diversity(np.zeros(len(texts)), vectors_of, n, rng)
    return [texts[i] for i in chosen]


if __name__ == "__main__":
    command.main("first_labels", main)
