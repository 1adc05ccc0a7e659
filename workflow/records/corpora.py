"""Corpora of unlabelled text, summed up over their slices: what the model predicts, and what that cost."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..engine import dag
from ..engine.attempt import SPENT, SUMMED
from . import costs
from .tracking.client import names

STAGE, FOLDER = "annotate@", Path("data/annotated")


def found(receipts: costs.Receipts) -> dict[str, dict[str, Any]]:
    """By corpus: documents, words, labels, confidence, cost. Only slices that are complete count."""
    return {corpus: _summary(costs.select(receipts, stages)) for corpus, stages in _by_corpus(receipts).items()}


def merged(receipts: costs.Receipts) -> costs.Receipts:
    """Receipts to show: one for all slices of a corpus, with their sums, under the name `annotate@CORPUS`.

    `run_id` and `host` are those of a slice that this clone has computed, if there is one. If it has computed a part of
    the slices, `reused` says how many it has not.
    """
    slices = _by_corpus(receipts)
    shown = {stage: receipt for stage, receipt in receipts.items() if not stage.startswith(STAGE)}
    for corpus, stages in slices.items():
        parts = [receipts[stage] for stage in stages]
        sums = {key: sum(part[key] for part in parts) for key in SUMMED}
        here = [part for part in parts if (SPENT / f"{part['run_id']}.json").is_file()]
        reused = f"{len(parts) - len(here)} of {len(parts)} slices reused" if here and len(here) < len(parts) else ""
        shown[STAGE + corpus] = {**[*here, *parts][0], **sums, "method": costs.methods(parts), "reused": reused}
    return {stage: shown[stage] for stage in dict.fromkeys(map(shown_as, receipts))}


def shown_as(stage: str) -> str:
    """The name under which a stage is shown: of a slice, that of its corpus."""
    return stage.rsplit("_", 2)[0] if stage.startswith(STAGE) else stage


def one_stage_each(stages: dict[str, dag.Stage]) -> dict[str, dag.Stage]:
    """The stages with one for all slices of a corpus."""
    return {shown_as(name): replace(stage, name=shown_as(name)) for name, stage in stages.items()}


def figures(summary: dict[str, Any]) -> dict[str, float]:
    """The figures of a corpus for MLflow."""
    sums = {key: summary[key] for key in ("documents", "words", "skipped", "slices")}
    sums |= {f"energy/{key}": summary[key] for key in ("wh_per_1000", "wh_per_1000_low", "wh_per_1000_high")}
    sums["energy/seconds"] = summary["cost"]["seconds"]
    name_of = names(summary["labels"])
    return sums | {f"share/{name_of[label]}": n / summary["documents"] for label, n in summary["labels"].items()}


def _by_corpus(receipts: costs.Receipts) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for stage in receipts:
        if stage.startswith(STAGE):
            found.setdefault(shown_as(stage).removeprefix(STAGE), []).append(stage)
    return found


def _summary(receipts: costs.Receipts) -> dict[str, Any]:
    reports = [
        json.loads((FOLDER / stage.removeprefix(STAGE) / "report.json").read_text("utf-8")) for stage in receipts
    ]
    sums = {key: sum(report[key] for report in reports) for key in ("documents", "words", "skipped")}
    labels: Counter[str] = Counter()
    for report in reports:
        labels.update(report["labels"])
    confidence = [sum(step) for step in zip(*(report["confidence"] for report in reports), strict=True)]
    outs = {out: value for receipt in receipts.values() for out, value in receipt["outs"].items()}
    cost = costs.total(receipts.values())
    per_1000 = {key: 1e6 * cost[key] / max(1, sums["documents"]) for key in ("kwh", "kwh_low", "kwh_high")}
    return {
        **sums,
        "slices": len(receipts),
        "sha256": hashlib.sha256(json.dumps(outs, sort_keys=True).encode()).hexdigest(),
        "labels": dict(labels.most_common()),
        "confidence": confidence,
        "cost": cost,
        "wh_per_1000": per_1000["kwh"],
        "wh_per_1000_low": per_1000["kwh_low"],
        "wh_per_1000_high": per_1000["kwh_high"],
    }


def lines(corpora: dict[str, dict[str, Any]], most: int = 5) -> list[str]:
    """Each corpus for the terminal."""
    said = []
    for corpus, s in corpora.items():
        shares = ", ".join(f"{label} {n / max(1, s['documents']):.0%}" for label, n in list(s["labels"].items())[:most])
        more = f", and {len(s['labels']) - most} more" if len(s["labels"]) > most else ""
        energy = f"{s['wh_per_1000']:.3f} Wh ({s['wh_per_1000_low']:.3f} to {s['wh_per_1000_high']:.3f})"
        said.append(f"{corpus}: {s['documents']:,} documents in {s['slices']} slices: {shares}{more}")
        said.append(f"{'':8}{energy} per 1,000 documents")
    return said
