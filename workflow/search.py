"""Search for good settings: add points to the sweep, train them, and choose the next ones by their scores on dev.

    python -m workflow.search                                   # one after the other, with DVC
    python -m workflow.search --profile workflow/profiles/slurm # search.at_once at a time, with Snakemake

All that is known about a trial is in params.yaml and in its results, so a search continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from .engine import params
from .engine.attempt import SPENT, read_records
from .engine.errors import Problem
from .model import scores
from .records import costs

if TYPE_CHECKING:
    import optuna

PREFIX = "search_"  # of the points that this module adds
NAME = re.compile(rf"{PREFIX}\d+")
ASKED = 20  # suggestions for each point, at most, until one is new
PARAMS = Path("params.yaml")


def main() -> None:
    parser = argparse.ArgumentParser("python -m workflow.search")
    parser.add_argument("--profile", help="folder of a Snakemake profile; without it, DVC runs one point at a time")
    profile = parser.parse_args().profile
    while True:
        settings = params.load()
        points = [name for name in settings.sweep if NAME.fullmatch(name)]
        if points:
            run(points, profile)
        missing, reason = settings.search.trials - len(points), over_budget(settings.search)
        if missing <= 0 or reason:
            break
        found = suggest(settings, points, min(missing, settings.search.at_once if profile else 1))
        if not found:
            reason = "search.space has no settings that have not been tried"
            break
        first = 1 + max((int(name.removeprefix(PREFIX)) for name in points), default=0)
        add_points({f"{PREFIX}{number:02}": changes for number, changes in enumerate(found, first)})
    summarize(settings, points, reason)


def run(points: list[str], profile: str | None) -> None:
    """Train and score the points that are not up to date."""
    command = ["snakemake", "--profile", profile] if profile else ["dvc", "repro"]
    separator = "_" if profile else "@"
    targets = [f"evaluate{separator}{point}" for point in points]
    engine = subprocess.Popen([sys.executable, "-m", *command, *targets])
    try:
        failed = engine.wait()
    except KeyboardInterrupt:  # the engine has got the signal, too, and stops at a checkpoint
        engine.wait()
        raise
    if failed:
        raise Problem("a point failed, see above: remove it from sweep in params.yaml, and narrow search.space")


def over_budget(search: params.Search) -> str:
    """Which budget is spent; empty if none is. All attempts of this clone count, also of points that were removed."""
    attempts = [record for record in read_records(SPENT) if NAME.fullmatch(record["stage"].partition("@")[2])]
    spent = costs.total(attempts)
    figures = {"budget_g": (spent["co2_g"], "g of CO2"), "budget_hours": (spent["seconds"] / 3600, "hours")}
    for name, (used, unit) in figures.items():
        budget = getattr(search, name)
        if budget is not None and used >= budget:
            return f"search.{name} is spent: {used:.3g} of {budget:g} {unit}"
    return ""


def suggest(settings: params.Params, points: list[str], n: int) -> list[dict[str, Any]]:
    """Settings for up to n more points, none of which has been tried; fewer if there are no others.

    They depend on the seed and on the results so far only, not on interruptions.
    Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization" (TPE).
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {name: distribution(values) for name, values in settings.search.space.items()}
    sampler = optuna.samplers.TPESampler(seed=settings.seed + len(points), constant_liar=n > 1)
    study = optuna.create_study(sampler=sampler)
    for point in points:
        try:
            trial = optuna.create_trial(
                params=settings.sweep[point], distributions=space, value=score(settings, point)[0]
            )
        except ValueError:  # the space has changed since: the point is not in it
            continue
        study.add_trial(trial)
    found: list[dict[str, Any]] = []
    for _ in range(ASKED * n):
        asked = study.ask(space).params
        changes = {name: rounded(value, settings.search.space[name]) for name, value in asked.items()}
        if changes not in found and changes not in settings.sweep.values():
            found.append(changes)
        if len(found) == n:
            break
    return found


def distribution(values: list[Any] | params.Range) -> optuna.distributions.BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, list):
        return CategoricalDistribution(values)
    kind = IntDistribution if isinstance(values.low, int) and isinstance(values.high, int) else FloatDistribution
    return kind(values.low, values.high, log=values.log)


def rounded(value: Any, values: list[Any] | params.Range) -> Any:
    """A number of a range with three digits, so that people can read the sweep."""
    if isinstance(values, list) or not isinstance(value, float):
        return value
    return min(max(float(f"{value:.2e}"), values.low), values.high)


def score(settings: params.Params, point: str) -> tuple[float, float]:
    """How good a point is on dev; the lower the better."""
    metrics = json.loads(Path(f"data/evaluation/{point}/metrics.json").read_text("utf-8"))
    return scores.rank(metrics["dev"], settings.select_by)


def add_points(points: dict[str, dict[str, Any]]) -> None:
    """Add points to the sweep in params.yaml. Raises Problem, and changes nothing, if a setting is not allowed."""
    new = PARAMS.with_name(f"{PARAMS.name}.new")
    new.write_bytes(with_points(PARAMS.read_bytes().decode(), points).encode())
    try:
        params.load(new)
    except Problem:
        new.unlink()
        raise
    new.replace(PARAMS)


def with_points(text: str, points: dict[str, dict[str, Any]]) -> str:
    """The text of params.yaml with more points at the end of the sweep; all else stays as it is."""
    [sweep] = [value for key, value in YAML(typ="safe", pure=True).compose(text).value if key.value == "sweep"]
    rows = [
        f"{name}: {{{', '.join(f'{key}: {_yaml(value)}' for key, value in changes.items())}}}"
        for name, changes in points.items()
    ]
    if sweep.flow_style:
        place = sweep.end_mark.index - 1
        comma = "" if text[:place].rstrip().endswith(",") else ", "
        return text[:place] + comma + ", ".join(rows) + text[place:]
    last = sweep
    while not getattr(last, "flow_style", True):  # a mapping in lines: its last value
        last = last.value[-1][1]
    line_end = text.find("\n", last.end_mark.index)
    place = len(text) if line_end < 0 else line_end - (text[line_end - 1] == "\r")
    newline = "\r\n" if "\r\n" in text else "\n"
    indent = " " * sweep.start_mark.column
    return text[:place] + "".join(f"{newline}{indent}{row}" for row in rows) + text[place:]


def _yaml(value: Any) -> str:
    """A value in YAML, whose floats have a point."""
    return f"{value:.2e}" if isinstance(value, float) and value == float(f"{value:.2e}") else json.dumps(value)


def summarize(settings: params.Params, points: list[str], reason: str) -> None:
    ranked = sorted(points, key=lambda point: score(settings, point))
    for point in ranked[:10]:
        changes = ", ".join(f"{key} {value}" for key, value in settings.sweep[point].items())
        print(f"{point}  dev {settings.select_by} {abs(score(settings, point)[0]):.4f}  {changes}")
    if reason:
        print(f"ended after {len(points)} of {settings.search.trials} trials: {reason}")
    print("next: `make repro` compares all points of the sweep, and packages the best on dev")


if __name__ == "__main__":
    try:
        main()
    except Problem as problem:
        sys.exit(f"search: error: {problem}")
    except KeyboardInterrupt:
        print("search: interrupted; it continues when you run it again", file=sys.stderr)
        sys.exit(130)
