"""Time and energy, from receipts: of the current results, spent in this clone, and avoided by reuse."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..engine import dag
from ..engine.attempt import SPENT, read_receipt
from ..files import write_json

AVOIDED = SPENT.with_name("avoided")  # receipts from other clones, by run id, so that each counts once

Receipts = dict[str, dict[str, Any]]  # by stage, in the order of the DAG


def receipts() -> Receipts:
    """Receipts of the current results: of the stages whose outs, the receipt among them, are all there.

    Raises Problem if one is damaged.
    """
    complete = [name for name, stage in dag.load().items() if all(Path(out).exists() for out in stage.outs)]
    return {name: read_receipt(name) for name in complete}


def reports(receipts: Receipts, prefix: str, folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each stage with this prefix, such as `audit@`: its item, and its report.json with a digest of its results."""
    for stage in (stage for stage in receipts if stage.startswith(prefix)):
        item = stage.removeprefix(prefix)
        outs = json.dumps(receipts[stage]["outs"], sort_keys=True)
        facts = json.loads((folder / item / "report.json").read_text("utf-8"))
        yield item, facts | {"sha256": hashlib.sha256(outs.encode()).hexdigest()}


def select(receipts: Receipts, stages: Iterable[str]) -> Receipts:
    return {stage: receipts[stage] for stage in stages}


def record_avoided(receipts: Receipts) -> None:
    """Keep receipts from other clones, whether DVC pulled them or restored them from its run cache."""
    AVOIDED.mkdir(parents=True, exist_ok=True)
    for receipt in receipts.values():
        name = f"{receipt['run_id']}.json"
        if not (SPENT / name).is_file() and not (AVOIDED / name).is_file():
            write_json(AVOIDED / name, receipt)


def unfinished(attempts: Iterable[dict[str, Any]]) -> str:
    """How many attempts failed, were stopped or still run, and what they have cost; "" if there are none."""
    costs = [attempt["kwh"] for attempt in attempts if "failed" in attempt]
    return f"attempts that did not finish: {len(costs)}, {1000 * sum(costs):.3f} Wh" if costs else ""


def total(receipts: Iterable[dict[str, Any]]) -> dict[str, float]:
    """Sums of the receipts' figures; `co2_g` uses the grid of each receipt."""
    rows = list(receipts)
    sums = {key: sum(row[key] for row in rows) for key in ("seconds", "kwh", "kwh_low", "kwh_high")}
    for suffix in ("", "_low", "_high"):
        sums[f"co2_g{suffix}"] = sum(row[f"kwh{suffix}"] * row["grid_g_per_kwh"] for row in rows)
    return sums


def methods(receipts: Iterable[dict[str, Any]]) -> str:
    """How the energy was measured or estimated, each method once."""
    return "; ".join(sorted({receipt["method"] for receipt in receipts}))


def markdown(receipts: Receipts) -> str:
    """A table for a model card."""
    rows = [_row(stage, receipt) for stage, receipt in receipts.items()]
    sums = total(receipts.values())
    return "\n".join(
        [
            "| stage | seconds | Wh | at least | at most |",
            "|---|---|---|---|---|",
            *rows,
            _row("all", sums),
            "",
            f"{sums['co2_g']:.3g} g of CO2 ({sums['co2_g_low']:.2g} to {sums['co2_g_high']:.2g}) for the grid and "
            f"PUE in params.yaml. Energy: {methods(receipts.values())}. Pretraining is not in these figures.",
        ]
    )


def _row(name: str, row: dict[str, Any]) -> str:
    energies = " | ".join(f"{1000 * row[key]:.3f}" for key in ("kwh", "kwh_low", "kwh_high"))
    return f"| {name} | {row['seconds']:.1f} | {energies} |"
