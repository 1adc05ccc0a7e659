"""Compare the points of the sweep in a table and a plot, and choose the best on dev for packaging."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json
from ..model import scores

CURVES = ("train_curve.json", "dev_curve.json")


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    out = outputs["comparison"]
    metrics = {p: json.loads((inputs["evaluation"] / p / "metrics.json").read_text("utf-8")) for p in params.sweep}
    best = min(metrics, key=lambda point: scores.rank(metrics[point]["dev"], params.select_by))
    right = {point: _right(inputs["evaluation"] / point / "test.jsonl") for point in metrics}
    p_values = {point: scores.mcnemar(right[best], right[point]) for point in metrics if point != best}
    rows = [
        {
            "point": point,
            "changes": ", ".join(f"{key} {value}" for key, value in params.sweep[point].items()),
            **{f"{split}_{key}": splits[split][key] for split in ("dev", "test") for key in scores.SHOWN},
            "test_p": p_values.get(point, ""),
        }
        for point, splits in metrics.items()
    ]
    recipes = by_recipe(params, metrics)
    write_json(out / "metrics.json", metrics)
    write_json(out / "recipes.json", recipes)
    unclear = [point for point, p in p_values.items() if p > 1 - params.evaluate.confidence]
    facts = {"rule": scores.RULES[params.select_by], "test_p": p_values, "unclear": unclear}
    write_json(out / "best.json", {"point": best, **facts})
    with (out / "points.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    _plot(out / "points.png", rows, best)
    for curve in CURVES:
        shutil.copyfile(inputs["model"] / best / curve, out / curve)
    # What reads the best model depends on this copy, and not on all models of the sweep.
    shutil.copytree(inputs["model"] / best, outputs["best"], dirs_exist_ok=True)
    confusion = (inputs["evaluation"] / best / "confusion.json").read_text("utf-8")
    # `dvc plots` writes labels into a script of its page as they are: "</script>" would end it, and the rest would run.
    (out / "confusion.json").write_text(confusion.replace("<", "\N{FULLWIDTH LESS-THAN SIGN}"), "utf-8")
    for row in rows:
        print(f"{row['point']:12} dev {row['dev_accuracy']:.3f}  test {row['test_accuracy']:.3f}  {row['changes']}")
    for recipe in (recipe for recipe in recipes if len(recipe["seeds"]) > 1):
        spread = ", ".join(f"{split} {_mean(recipe[split])}" for split in ("dev", "test"))
        print(f"{recipe['recipe']}, {len(recipe['seeds'])} seeds: accuracy on {spread}")
    if unclear:
        print(f"on test, the difference between {best} and {', '.join(unclear)} is within noise (McNemar's test)")


def by_recipe(params: Params, metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The points that differ in nothing but the seed, with mean and standard deviation of their accuracies."""
    groups: dict[str, dict[int, str]] = {}
    for point, changes in params.sweep.items():
        others = [f"{key} {value}" for key, value in sorted(changes.items()) if key != "seed"]
        groups.setdefault(", ".join(others) or "as in params.yaml", {})[changes.get("seed", params.seed)] = point

    def figures(split: str, points: Iterable[str]) -> dict[str, float | None]:
        found = [metrics[point][split]["accuracy"] for point in points]
        return {"mean": mean(found), "deviation": stdev(found) if len(found) > 1 else None}

    recipes = []
    for recipe, by_seed in groups.items():
        seeds, points = zip(*sorted(by_seed.items()), strict=True)
        scored = {split: figures(split, points) for split in ("dev", "test")}
        recipes.append({"recipe": recipe, "seeds": seeds, "points": points, **scored})
    return recipes


def _mean(figures: dict[str, float]) -> str:
    return f"{figures['mean']:.3f} (deviation {figures['deviation']:.3f})"


def _right(predictions: Path) -> np.ndarray:
    """Whether each prediction is right."""
    with predictions.open(encoding="utf-8") as file:
        return np.array([json.loads(line)["right"] for line in file])


def _plot(path: Path, rows: list[dict[str, Any]], best: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 1.4 + 0.5 * len(rows)), layout="constrained")
    for shift, split, color in ((-0.12, "dev", "0.55"), (0.12, "test", "tab:blue")):
        accuracy = [row[f"{split}_accuracy"] for row in rows]
        below = [row[f"{split}_accuracy"] - row[f"{split}_accuracy_low"] for row in rows]
        above = [row[f"{split}_accuracy_high"] - row[f"{split}_accuracy"] for row in rows]
        positions = [position + shift for position in range(len(rows))]
        axes.errorbar(accuracy, positions, xerr=[below, above], fmt="o", color=color, capsize=3, label=split)
    names = [f"{row['point']} (best on dev)" if row["point"] == best else row["point"] for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.set(xlabel="accuracy, with its interval", ylim=(len(rows) - 0.5, -0.5))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main("compare", run)
