"""Rows that were chosen to be labelled next."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import costs

STAGE, FOLDER = "select@", Path("data/select")


def found(receipts: costs.Receipts) -> dict[str, dict[str, Any]]:
    """By corpus: what the stage's report says."""
    return dict(costs.reports(receipts, STAGE, FOLDER))


def figures(facts: dict[str, Any]) -> dict[str, float]:
    """The figures of a selection for MLflow."""
    return {"candidates": facts["candidates"], "chosen": facts["chosen"]}


def lines(selections: dict[str, dict[str, Any]]) -> list[str]:
    """Each selection for the terminal."""
    return [
        f"select {corpus}: {facts['chosen']} of {facts['candidates']:,} rows to label next, by {facts['by']}: "
        f"data/select/{corpus}/tasks.jsonl"
        for corpus, facts in selections.items()
    ]
