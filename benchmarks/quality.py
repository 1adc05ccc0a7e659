"""Accuracy, seconds and energy of classifiers on several data sets.

A cell is one contender on one draw of one task. Each is kept as it ends, in quality.jsonl beside the report, and is not
measured again: the whole can be done in many sittings, and be stopped at any time.

    python -m benchmarks quality                       # a few cells; all that are missing with --full
    python -m benchmarks.quality sample "rootstock*"   # those of some tasks and contenders
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections import defaultdict
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from . import data
from .harness import THREADS, Contender
from .report import RESULTS, Report, describe_machine

Rows = list[dict[str, str]]
CELLS = RESULTS / "quality.jsonl"
TEST = 1000  # documents of a long test split
SHORT = 3  # draws without --full
UNLABELLED = 3000  # documents


class Task(NamedTuple):
    """A data set, and how much of its train split is drawn."""

    corpus: str
    draws: int
    rows: int | None = None  # in all; None: the whole split
    per_class: int | None = None  # instead
    epochs: int = 4


TASKS = {
    "sample": Task("sample", 10),
    "sst2": Task("sst2", 3, epochs=3),
    "sst2 1024": Task("sst2", 5, rows=1024, epochs=1),
    "trec": Task("trec", 3, epochs=4),
    "imdb 250": Task("imdb", 5, rows=250, epochs=6),
    "imdb 2500": Task("imdb", 3, epochs=3),
    **{
        f"{corpus} {n} a class": Task(corpus, 5, per_class=n, epochs=max(4, 200 // n))
        for corpus in ("sst2", "imdb", "trec")
        for n in (8, 16, 64)
    },
}

# Settings of params.yaml by key. The first is what `make repro` does, the others are what it is compared with.
RECIPES: dict[str, dict[str, Any]] = {
    "rootstock": {},
    "rootstock, as in 0.1.0": {"finetune.head": "class_vector", "wordpiece.spans": "sentence"},
    "rootstock, mean of sentences": {"wordpiece.spans": "sentence"},
    "rootstock, without contrast": {"finetune.contrastive": False},  # the default for many examples
    "rootstock, by contrast": {"finetune.contrastive": True},  # the default for few
}


def contenders(task: Task) -> dict[str, Contender]:
    peers: dict[str, Any] = {"python": data.PEERS_PYTHON}
    here = "benchmarks.classifiers"
    rates: dict[str, Any] = {"epochs": task.epochs, "learning_rate": 1e-4}
    settings: dict[str, Any] = {"weights": data.WEIGHTS, "threads": int(THREADS)}
    made = [
        *(
            Contender(name, f"{here}:Rootstock", **settings, changes={"finetune.epochs": task.epochs, **changes})
            for name, changes in RECIPES.items()
        ),
        Contender("Hugging Face Trainer", f"{here}:HuggingFaceTrainer", **peers, weights=data.WEIGHTS, **rates),
        Contender("frozen mean, regression", f"{here}:FrozenMean", **peers, weights=data.WEIGHTS),
        Contender("TF-IDF, regression", f"{here}:TfIdf", **peers),
        Contender("spaCy, bag of words", f"{here}:SpacyTextcat", config="bow"),
        Contender("spaCy, CNN", f"{here}:SpacyTextcat", config="cnn"),
    ]
    if task.per_class:
        changes = {"finetune.epochs": task.epochs}
        made.append(Contender("rootstock, self-training", f"{here}:SelfTraining", **settings, changes=changes))
    if task.per_class or task.corpus == "imdb":  # with thousands of rows it takes hours
        made.append(Contender("SetFit", f"{here}:SetFit", **peers, weights=data.WEIGHTS))
    return {contender.name: contender for contender in made}


def run(full: bool) -> Report:
    """All tasks and draws, or a few of the sample."""
    return report("*", "*") if full else report("sample", "*", SHORT)


def report(tasks: str, names: str, most: int | None = None) -> Report:
    """Measure the cells that are missing, of tasks and contenders that match the patterns; at most some draws of each.

    RETURNS: a report on all cells.
    """
    for title, task in TASKS.items():
        done = {(cell["contender"], cell["draw"]) for cell in read_cells() if cell["task"] == title}
        for name, contender in contenders(task).items():
            draws = [draw for draw in range(task.draws)[:most] if (name, draw) not in done]
            if draws and fnmatchcase(title, tasks) and fnmatchcase(name, names):
                measure(title, task, contender, draws)
    return Report("quality", notes=table(read_cells()))


def measure(title: str, task: Task, contender: Contender, draws: list[int]) -> None:
    """Add a line to CELLS for each draw."""
    from workflow.engine.energy import Energy, metered

    CELLS.parent.mkdir(parents=True, exist_ok=True)
    with contender, tempfile.TemporaryDirectory() as tmp:
        contender.wait_until_ready()
        for draw in draws:
            for split, rows in draw_rows(task, draw).items():
                Path(tmp, f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
            energy = Energy()
            with metered("DEU", 1.0, energy):  # this process and its children, of which the contender is one
                reply = contender.request(folder=tmp, seed=draw)
            cell = {"task": title, "contender": contender.name, "draw": draw, **reply, "wh": 1000 * energy.kwh}
            with CELLS.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**cell, "machine": describe_machine()}) + "\n")


def draw_rows(task: Task, draw: int) -> dict[str, Rows]:
    """The rows of train, dev and test, and unlabelled ones: the same for all contenders, others in each draw.

    The sample is cut anew. Elsewhere test is that of the data set; without a dev split, a tenth of what is drawn from
    train is dev, and as much as train where few examples of a class are drawn.
    """
    rng = random.Random(draw)
    if task.corpus == "sample":
        folder = data.ROOT / "data/sample"
        rows = [row for split in ("train", "dev", "test") for row in data.read_rows(folder / f"{split}.jsonl")]
        rng.shuffle(rows)
        return {"train": rows[:360], "dev": rows[360:450], "test": rows[450:]}
    folder = data.SHARED / task.corpus
    test = data.read_rows(folder / "test.jsonl")
    test = random.Random(0).sample(test, TEST) if len(test) > 2 * TEST else test
    rows = list({row["text"]: row for row in data.read_rows(folder / "train.jsonl")}.values())
    rng.shuffle(rows)
    if task.per_class:
        by_label = defaultdict(list)
        for row in rows:
            by_label[row["label"]].append(row)
        n, groups = task.per_class, [by_label[label] for label in sorted(by_label)]
        train, dev = ([row for group in groups for row in group[part]] for part in (slice(n), slice(n, 2 * n)))
        used = {row["text"] for row in train + dev + test}
        unlabelled = [{"text": row["text"]} for row in rows if row["text"] not in used][:UNLABELLED]
        return {"train": train, "dev": dev, "test": test, "unlabelled": unlabelled}
    if (folder / "dev.jsonl").is_file():
        return {"train": rows[: task.rows], "dev": data.read_rows(folder / "dev.jsonl"), "test": test}
    rows = rows[: task.rows]
    n_dev = len(rows) // 10
    return {"train": rows[n_dev:], "dev": rows[:n_dev], "test": test}


def read_cells() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CELLS.read_text("utf-8").splitlines()] if CELLS.is_file() else []


def table(cells: list[dict[str, Any]]) -> list[str]:
    """Lines of Markdown: for each task and contender the mean over draws, and the difference to the first, paired."""
    lines = []
    for title in dict.fromkeys(cell["task"] for cell in cells):
        by_name: dict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
        for cell in cells:
            if cell["task"] == title:
                by_name[cell["contender"]][cell["draw"]] = cell
        first = by_name.get(next(iter(RECIPES)), {})
        for name, draws in by_name.items():
            figures = {key: mean(cell[key] for cell in draws.values()) for key in ("test", "dev", "seconds", "wh")}
            tests = [cell["test"] for cell in draws.values()]
            spread = stdev(tests) if len(tests) > 1 else 0.0
            pairs = [cell["test"] - first[draw]["test"] for draw, cell in draws.items() if draw in first]
            line = (
                f"{title}: {name}: test {figures['test']:.4f} (deviation {spread:.4f}), {len(tests)} draws, "
                f"{figures['seconds']:.1f} s, {figures['wh']:.2f} Wh"
            )
            if draws is not first and len(pairs) > 1:
                line += f"; difference from {next(iter(RECIPES))}: {mean(pairs):+.4f} (deviation {stdev(pairs):.4f})"
            lines.append(line)
    return lines


if __name__ == "__main__":
    tasks, names = sys.argv[1:]
    print("\n".join(report(tasks, names).notes))
