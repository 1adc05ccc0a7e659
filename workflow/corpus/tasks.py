"""Tasks for annotators in the format of Prodigy, which come back as rows: `rows` reads its answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def task(text: str, labels: list[str], exclusive: bool, accept: list[str], meta: dict[str, Any]) -> dict[str, Any]:
    """A choice among the labels. accept: those that are ticked at first; meta: is shown below the text."""
    options = [{"id": label, "text": label} for label in labels]
    shown = {"text": text, "options": options}
    return {
        **shown,
        "accept": accept,
        "config": {"choice_style": "single" if exclusive else "multiple"},
        "_input_hash": _hash(text),  # the same text is the same input, and the same question the same task
        "_task_hash": _hash(shown),
        "_view_id": "choice",
        "meta": meta,
    }


def _hash(value: Any) -> int:
    """A number of 32 bits with a sign, as Prodigy's are."""
    digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4], "big", signed=True)


def write(tasks: Iterable[dict[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(task, ensure_ascii=False) + "\n" for task in tasks)
