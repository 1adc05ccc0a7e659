"""Recent text beside the test split: what has changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..engine import params
from . import costs

STAGE, FOLDER = "monitor@", Path("data/monitor")


def found(receipts: costs.Receipts) -> dict[str, dict[str, Any]]:
    """By name: what the stage's report says, and `alarms`, in words, by the limits of today."""
    limits = params.load().monitor
    return {name: facts | {"alarms": _alarms(facts, limits)} for name, facts in costs.reports(receipts, STAGE, FOLDER)}


def _alarms(report: dict[str, Any], limits: params.Monitor) -> list[str]:
    found = [
        f"{finding['name']}: test {finding['test']}, recent {finding['recent']} (p {finding['p']:.2g})"
        for finding in report["findings"]
        if finding["p"] < limits.significance
    ]
    accuracy, kind = (report["labelled"] or report["estimated"]), "real" if report["labelled"] else "estimated"
    if limits.min_accuracy is not None and accuracy["high"] < limits.min_accuracy:
        said = f"{kind} accuracy {accuracy['accuracy']:.3f} ({accuracy['low']:.3f} to {accuracy['high']:.3f})"
        found.append(f"{said} is below monitor.min_accuracy, {limits.min_accuracy}")
    production = report["production"]
    if limits.min_agreement is not None and production is None:
        found.append("monitor.min_agreement is set, but no row has a column `production`, or labels are not exclusive")
    elif limits.min_agreement is not None and production["agreement"] < limits.min_agreement:
        agreement = f"agreement with production {production['agreement']:.3f}"
        found.append(f"{agreement} is below monitor.min_agreement, {limits.min_agreement}")
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
