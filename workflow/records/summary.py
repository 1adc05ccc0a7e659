"""Results and cost of a run, for the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..engine.attempt import SPENT, read_records
from ..engine.errors import printable
from . import audits, corpora, costs, monitors, selections, students

# Results beside those of the sweep, by what they are called: how to find them in the receipts, and to show them.
EXTRAS = {"annotate": corpora, "select": selections, "audit": audits, "monitor": monitors, "student": students}
# By stage: the folder of its wheel, and what to say of it.
WHEELS = {"package": ("data/package", ""), "package_weights": ("data/vectors", "  (no head: vectors only)")}


def text(receipts: costs.Receipts, points: list[str], best: str | None) -> str:
    """Time and energy per stage, scores of these points, where the wheels are, and what to do next."""
    metrics = {p: json.loads(Path("data/evaluation", p, "metrics.json").read_text("utf-8")) for p in points}
    lines = ["", f"{'stage':18} {'seconds':>8} {'Wh':>8}   {'from':>6} to {'':<6} how"]
    for stage, row in corpora.merged(receipts).items():
        reused = "" if (SPENT / f"{row['run_id']}.json").is_file() else ", reused"
        reused = f", {row['reused']}" if row.get("reused") else reused
        lines.append(f"{_line(stage, row)} {printable(row['method'])}{reused}")
    lines.append(_line("all", costs.total(receipts.values())).rstrip())
    spent, avoided = read_records(SPENT), read_records(costs.AVOIDED)
    lines.append("")
    lines.append(f"{_line('spent here', costs.total(spent))} in {len(spent)} stage runs")
    if unfinished := costs.unfinished(spent):
        lines.append(f"{'':19}{unfinished}")
    if avoided:
        lines.append(f"{_line('avoided, at most', costs.total(avoided))} by reusing {len(avoided)} results")
    lines.append("")
    for point, splits in metrics.items():
        finetune = receipts[f"finetune@{point}"]
        steps, planned = finetune["steps"], finetune["steps_planned"]
        if steps < planned:
            lines.append(f"{point}: stopped after {steps} of {planned} steps: {finetune['ended_early']}")
        if len(metrics) > 1:
            lines.append(f"{point}{' (best on dev)' if point == best else ''}")
        for split, m in splits.items():
            accuracy = f"accuracy {m['accuracy']:.3f} ({m['accuracy_low']:.3f} to {m['accuracy_high']:.3f})"
            lines.append(f"{split:5} {accuracy}, macro F1 {m['macro_f1']:.3f}, {m['documents']} documents")
    for module in EXTRAS.values():
        lines += map(printable, module.lines(module.found(receipts)))
    lines.append("")
    heading = "wheels"
    for stage, (folder, note) in WHEELS.items():
        if stage in receipts:
            lines.append(f"{heading:8}{_pipeline(folder)}{note}")
            heading = ""
    if "package" in receipts:
        name = _pipeline("data/package").name.split("-")[0]
        lines.append("try     pip install data/package/*.whl")
        lines.append(f'        python -c \'import spacy; print(spacy.load("{name}")("Not bad at all.").cats)\'')
    lines += [
        "next    make ui              compare runs in MLflow",
        "        make report          one page: scores, errors, energy",
        "        edit params.yaml     then `make repro` runs only the stages that depend on the change",
    ]
    return "\n".join(lines)


def _pipeline(folder: str) -> Path:
    """The wheel of a pipeline, next to which there may be that of the library."""
    return next(wheel for wheel in sorted(Path(folder).glob("*.whl")) if not wheel.name.startswith("spacy_rootstock-"))


def _line(name: str, row: dict[str, Any]) -> str:
    """A row of the table of costs: seconds, Wh, and the range of Wh."""
    low, high = 1000 * row["kwh_low"], 1000 * row["kwh_high"]
    return f"{name:18} {row['seconds']:8.1f} {1000 * row['kwh']:8.3f}   {low:6.3f} to {high:<6.3f}"
