"""What a benchmark leaves: the rounds as JSON, a table, a plot."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .turns import THREADS, Goal, Measured, Spread

RESULTS = Path(__file__).parent / "results"


@dataclass
class Report:
    name: str
    measured: list[Measured] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, measured: Measured) -> None:
        self.measured.append(measured)

    def write(self, folder: Path) -> str:
        """RETURNS: the table."""
        folder.mkdir(parents=True, exist_ok=True)
        notes = ["\n## Notes\n", *(f"- {note}" for note in self.notes)] if self.notes else []
        table = "\n".join([f"# {self.name}\n", machine(), *_tables(self.measured), *notes]) + "\n"
        (folder / f"{self.name}.json").write_text(json.dumps({"machine": machine(), **asdict(self)}, indent=2) + "\n")
        (folder / f"{self.name}.md").write_text(table, "utf-8")
        _plot(folder / f"{self.name}.png", self.measured)
        return table


def machine() -> str:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpus if line.startswith("model name")), platform.machine())
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return f"{model}, {os.cpu_count()} cores, {THREADS} threads each, load {os.getloadavg()[0]:.1f}, {now}"


def _tables(measured: Sequence[Measured]) -> list[str]:
    lines = []
    for one in measured:
        head = ["", one.unit, "min to max", f"over {one.baseline}", "min to max"]
        lines += [f"\n## {one.what}\n", _row(head), _row(["---", *["---:"] * 4])]
        for name in one.contenders:
            lines.append(_row([name, *_cells(one.values(name)), *_cells(one.ratio(name, one.baseline))]))
    goals = [(one, goal) for one in measured for goal in one.goals]
    if goals:
        lines += ["\n## Goals\n", _row(["", "ratio", "min to max", "goal", "reached"]), _row(["---", *["---:"] * 4])]
        lines += [_goal(one, goal) for one, goal in goals]
    return lines


def _goal(one: Measured, goal: Goal) -> str:
    ratio = one.ratio(goal.contender, goal.against)
    enough = (goal.least is None or ratio.median >= goal.least) and (goal.most is None or ratio.median <= goal.most)
    bound = f"at least {goal.least:g}" if goal.least is not None else f"at most {goal.most:g}"
    title = f"{one.what}: {goal.contender} over {goal.against}"
    return _row([title, *_cells(ratio), bound, "yes" if enough else "no"])


def _cells(spread: Spread) -> tuple[str, str]:
    return _number(spread.median), f"{_number(spread.low)} to {_number(spread.high)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 10 else f"{value:.3f}"


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(cells)} |"


def _plot(path: Path, measured: Sequence[Measured]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    heights = [0.9 + 0.3 * len(one.contenders) for one in measured]
    figure, grid = plt.subplots(
        len(measured), figsize=(8, sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axes, one in zip(grid[:, 0], measured, strict=True):
        spreads = [one.values(name) for name in one.contenders]
        medians = [spread.median for spread in spreads]
        errors = [[s.median - s.low for s in spreads], [s.high - s.median for s in spreads]]
        colors = ["tab:green" if name.startswith("rootstock") else "0.7" for name in one.contenders]
        bars = axes.barh(one.contenders, medians, xerr=errors, color=colors, capsize=3)
        axes.bar_label(bars, [_number(value) for value in medians], padding=6, fontsize="small")
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.invert_yaxis()
        axes.set(title=one.what, xlabel=one.unit)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
