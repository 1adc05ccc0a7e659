"""Audits of train: how many labels look wrong, and which."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

from . import costs

STAGE, FOLDER = "audit@", Path("data/audit")
LISTED = 20  # suspects in the report


def found(receipts: costs.Receipts) -> dict[str, dict[str, Any]]:
    """By method: what its report says, and its first suspects."""
    audits = dict(costs.reports(receipts, STAGE, FOLDER))
    for method, facts in audits.items():
        with (FOLDER / method / "suspects.jsonl").open(encoding="utf-8") as file:
            facts["first"] = [json.loads(line) for line in islice(file, LISTED)]
    return audits


def figures(facts: dict[str, Any]) -> dict[str, float]:
    """The figures of an audit for MLflow."""
    wrong = {f"wrong/{key}": value for key, value in facts["wrong"].items()}
    return wrong | {"documents": facts["documents"], "suspects": facts["suspects"]}


def lines(audits: dict[str, dict[str, Any]]) -> list[str]:
    """Each audit for the terminal."""
    return [
        f"audit by {method}: about {facts['wrong']['share']:.1%} of the labels of train look wrong "
        f"({facts['wrong']['low']:.1%} to {facts['wrong']['high']:.1%}): data/audit/{method}/suspects.jsonl"
        for method, facts in audits.items()
    ]
