"""Reports of a benchmark: all rounds as JSON, tables as Markdown, and a plot."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .harness import THREADS, Goal, Measurement, Spread

RESULTS = Path(__file__).parent / "results"


@dataclass
class Report:
    name: str
    measured: list[Measurement] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    threads: str = THREADS  # per contender

    def add(self, measurement: Measurement) -> None:
        self.measured.append(measurement)

    def write(self, folder: Path) -> str:
        """Write NAME.json, NAME.md and NAME.png. RETURNS: the Markdown."""
        folder.mkdir(parents=True, exist_ok=True)
        machine = describe_machine(self.threads)
        notes = ["\n## Notes\n", *(f"- {note}" for note in self.notes)] if self.notes else []
        markdown = "\n".join([f"# {self.name}\n", machine, *_tables(self.measured), *notes]) + "\n"
        (folder / f"{self.name}.json").write_text(json.dumps({"machine": machine, **asdict(self)}, indent=2) + "\n")
        (folder / f"{self.name}.md").write_text(markdown, "utf-8")
        _plot(folder / f"{self.name}.png", self.measured)
        return markdown


def describe_machine(threads: str = THREADS) -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in cpuinfo if line.startswith("model name")), platform.machine())
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    load = f"load average {os.getloadavg()[0]:.1f}"
    return f"{model}, {os.cpu_count()} cores, threads per contender: {threads}, {load}, {now}"


def _tables(measurements: Sequence[Measurement]) -> list[str]:
    lines = []
    for measurement in measurements:
        baseline = measurement.baseline
        header = ["", measurement.unit, "min to max", f"ratio to {baseline}", "min to max"]
        lines += [f"\n## {measurement.title}\n", _row(header), _row(["---", *["---:"] * 4])]
        for name in measurement.contenders:
            values, ratio = measurement.values(name), measurement.ratio(name, baseline)
            lines.append(_row([name, *_cells(values), *_cells(ratio)]))
    goals = [_goal_row(measurement, goal) for measurement in measurements for goal in measurement.goals]
    if goals:
        lines += ["\n## Goals\n", _row(["", "ratio", "min to max", "goal", "met"]), _row(["---", *["---:"] * 4])]
        lines += goals
    return lines


def _goal_row(measurement: Measurement, goal: Goal) -> str:
    """A goal applies to the median."""
    ratio = measurement.ratio(goal.contender, goal.baseline)
    met = (goal.at_least is None or ratio.median >= goal.at_least) and (
        goal.at_most is None or ratio.median <= goal.at_most
    )
    bound = f"at least {goal.at_least:g}" if goal.at_least is not None else f"at most {goal.at_most:g}"
    title = f"{measurement.title}: {goal.contender} / {goal.baseline}"
    return _row([title, *_cells(ratio), bound, "yes" if met else "no"])


def _cells(spread: Spread) -> tuple[str, str]:
    return _number(spread.median), f"{_number(spread.min)} to {_number(spread.max)}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) >= 10 else f"{value:.3f}"


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(cells)} |"


def _plot(path: Path, measurements: Sequence[Measurement]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    heights = [0.9 + 0.3 * len(measurement.contenders) for measurement in measurements]
    figure, grid = plt.subplots(
        len(measurements), figsize=(8, sum(heights)), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axes, measurement in zip(grid[:, 0], measurements, strict=True):
        spreads = [measurement.values(name) for name in measurement.contenders]
        medians = [spread.median for spread in spreads]
        errors = [[s.median - s.min for s in spreads], [s.max - s.median for s in spreads]]
        colors = ["tab:green" if name.startswith("rootstock") else "0.7" for name in measurement.contenders]
        bars = axes.barh(measurement.contenders, medians, xerr=errors, color=colors, capsize=3)
        axes.bar_label(bars, [_number(value) for value in medians], padding=6, fontsize="small")
        axes.margins(x=0.12)
        axes.locator_params(axis="x", nbins=5)
        axes.xaxis.set_major_formatter("{x:,g}")
        axes.invert_yaxis()
        axes.set(title=measurement.title, xlabel=measurement.unit)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
