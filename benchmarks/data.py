"""Paths of the texts and weights, and helpers to read texts.

Every contender's environment imports this module, so it uses only the standard library.
"""

import json
import random
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"  # public data sets, kept outside the project
WEIGHTS = ROOT / "data" / "weights"
PEERS_PYTHON = ROOT / ".venv" / "peers" / "bin" / "python"  # the environment of the other libraries
MODEL2VEC_PYTHON = ROOT / ".venv" / "model2vec" / "bin" / "python"  # and that of Model2Vec


def read_rows(path: str | Path, n_documents: int | None = None) -> list[dict[str, str]]:
    """A random sample of the rows of a JSONL file, the same on every call; None returns all rows in file order."""
    with Path(path).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return rows if n_documents is None else random.Random(0).sample(rows, n_documents)


def read_texts(path: str | Path, n_documents: int | None = None) -> list[str]:
    return [row["text"] for row in read_rows(path, n_documents)]


def count_words(text: str) -> int:
    """Whitespace-separated words: the same count for all contenders, however they tokenize."""
    return len(text.split())


def is_one_sentence(text: str) -> bool:
    """Whether every contender treats the text as a single sentence."""
    return not re.search(r"[.!?…]", text.rstrip(" .!?"))
