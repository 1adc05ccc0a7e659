"""Where the texts and the weights are, and a draw from the texts. Imported in every environment: nothing but Python."""

import json
import random
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"  # public data sets, not the project's
WEIGHTS = ROOT / "data" / "weights"
PEERS = ROOT / ".venv" / "peers" / "bin" / "python"


def rows(path: str | Path, documents: int | None = None) -> list[dict[str, str]]:
    """So many of a file's rows, drawn by lot, the same at each call; None for all of them, as they stand."""
    with Path(path).open(encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    return found if documents is None else random.Random(0).sample(found, documents)


def texts(path: str | Path, documents: int | None = None) -> list[str]:
    return [row["text"] for row in rows(path, documents)]


def words(text: str) -> int:
    """The same count for everybody, whatever they call a token."""
    return len(text.split())


def one_sentence(text: str) -> bool:
    """Whether everybody reads it as one sentence."""
    return not re.search(r"[.!?…]", text.rstrip(" .!?"))
