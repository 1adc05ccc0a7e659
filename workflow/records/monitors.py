"""Recent text beside the test split: what has changed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ..engine import params
from . import costs

STAGE, FOLDER = "monitor@", Path("data/monitor")


def found(receipts: costs.Receipts) -> dict[str, dict[str, Any]]:
    """By name: what the stage's report says, and `alarms`, in words, by the limits of today."""
    limits, monitors = params.load().monitor, {}
    for stage in (stage for stage in receipts if stage.startswith(STAGE)):
        name = stage.removeprefix(STAGE)
        facts = json.loads((FOLDER / name / "report.json").read_text("utf-8"))
        outs = json.dumps(receipts[stage]["outs"], sort_keys=True)
        facts["alarms"] = _alarms(facts, limits)
        monitors[name] = facts | {"sha256": hashlib.sha256(outs.encode()).hexdigest()}
    return monitors


def _alarms(report: dict[str, Any], limits: params.Monitor) -> list[str]:
    found = [
        f"{finding['name']}: test {finding['test']}, recent {finding['recent']} (p {finding['p']:.2g})"
        for finding in report["findings"]
        if finding["p"] < limits.significance
    ]
    accuracy, kind = (report["labelled"] or report["estimated"]), "real" if report["labelled"] else "estimated"
    if limits.min_accuracy is not None and accuracy["accuracy"] < limits.min_accuracy:
        found.append(f"{kind} accuracy {accuracy['accuracy']:.3f} is below monitor.min_accuracy, {limits.min_accuracy}")
    agreement = (report["production"] or {"agreement": 1.0})["agreement"]
    if limits.min_agreement is not None and agreement < limits.min_agreement:
        found.append(
            f"agreement with production {agreement:.3f} is below monitor.min_agreement, {limits.min_agreement}"
        )
    return found


def figures(facts: dict[str, Any]) -> dict[str, float]:
    """The figures of a monitor for MLflow."""
    found = {"documents": facts["documents"], "accuracy/test": facts["test_accuracy"]}
    found |= {"accuracy/estimated": facts["estimated"]["accuracy"]}
    found |= {f"p/{number} {NAMES[number]}": finding["p"] for number, finding in enumerate(facts["findings"])}
    if facts["labelled"]:
        found["accuracy/real"] = facts["labelled"]["accuracy"]
    if facts["production"]:
        found["agreement with production"] = facts["production"]["agreement"]
    return found


NAMES = ("probabilities", "labels", "lengths", "unknown pieces", "new words", "classifier")  # of the findings, in order


def lines(monitors: dict[str, dict[str, Any]]) -> list[str]:
    """Each monitor for the terminal."""
    said = []
    for name, facts in monitors.items():
        estimated, real = facts["estimated"], facts["labelled"]
        accuracy = f"estimated accuracy {estimated['accuracy']:.3f} ({estimated['low']:.3f} to {estimated['high']:.3f})"
        if real:
            accuracy = f"accuracy {real['accuracy']:.3f} ({real['low']:.3f} to {real['high']:.3f})"
        said.append(
            f"monitor {name}: {facts['documents']:,} documents, {accuracy}; on test {facts['test_accuracy']:.3f}"
        )
        said += [f"{'':8}alarm: {alarm}" for alarm in facts["alarms"]]
        if facts["alarms"]:
            said.append(f"{'':8}words that recent text has more often: {' '.join(facts['telling'])}")
    return said
