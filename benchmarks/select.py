"""How many labels each strategy of `select` needs for the accuracy that 1,000 random ones give, on SST-2."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import data
from .report import Report

LABELLED, STEP, MOST = 1000, 50, 1300  # random labels; labels in a round; labels at the end
FIRST = 100  # labels that come before the model can be asked
POOL = 5000  # rows that may be chosen, others in each draw


def run(full: bool) -> Report:
    """Logistic regression on vectors of the frozen transformer; scored on test. 30 draws with --full, else three."""
    from workflow.model.choice import STRATEGIES

    train, test = (vectors(split) for split in ("train", "test"))
    curves = {name: [curve(name, *train, *test, draw) for draw in range(30 if full else 3)] for name in STRATEGIES}
    sizes = np.arange(FIRST, MOST + 1, STEP)
    target = float(np.mean([np.interp(LABELLED, sizes, one) for one in curves["random"]]))
    notes = [f"{LABELLED} random labels: accuracy {target:.4f}, mean of {len(curves['random'])} draws"]
    rng = np.random.default_rng(0)
    for name in STRATEGIES:
        found = np.array(curves[name])
        ratio = needed(found.mean(axis=0), sizes, target) / LABELLED
        if not np.isfinite(ratio):
            notes.append(f"{name}: not reached with {MOST} labels")
            continue
        means = [found[rng.integers(0, len(found), len(found))].mean(axis=0) for _ in range(1000)]
        low, high = (
            np.quantile([needed(one, sizes, target) for one in means], [0.025, 0.975], method="lower") / LABELLED
        )
        notes.append(f"{name}: {ratio:.2f} of the labels ({low:.2f} to {high:.2f}, 95 % of draws)")
    return Report("select", notes=notes)


def vectors(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and classes of a split of SST-2."""
    from workflow.engine import params
    from workflow.model.pipeline import build
    from workflow.model.vectors import of_texts

    rows = data.read_rows(data.SHARED / f"sst2/{split}.jsonl")
    nlp = build(params.load(), Path(data.WEIGHTS), [])
    return of_texts(nlp, [row["text"] for row in rows]), np.array([row["label"] == "POSITIVE" for row in rows])


def curve(name: str, x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, draw: int) -> list[float]:
    """The accuracy after FIRST labels and after each STEP more. The first come by diversity, unless all are random."""
    from sklearn.linear_model import LogisticRegression

    from workflow.model.choice import STRATEGIES

    rng = np.random.default_rng(draw)
    pool = rng.permutation(len(y))[:POOL]
    begin = STRATEGIES["random" if name == "random" else "diversity"]
    labelled = pool[begin(np.zeros(len(pool)), lambda rows: x[pool[rows]], FIRST, rng)]
    accuracy = []
    while True:
        model = LogisticRegression(max_iter=1000).fit(x[labelled], y[labelled])
        accuracy.append(float((model.predict(x_test) == y_test).mean()))
        if len(labelled) >= MOST:
            return accuracy
        rest = np.setdiff1d(pool, labelled)
        margins = np.abs(2 * model.predict_proba(x[rest])[:, 1] - 1)
        chosen = STRATEGIES[name](margins, lambda rows, rest=rest: x[rest[rows]], STEP, rng)  # type: ignore[misc]
        labelled = np.concatenate([labelled, rest[chosen]])


def needed(accuracy: np.ndarray, sizes: np.ndarray, target: float) -> float:
    """The labels from which on a curve reaches a target; a curve is made to rise, because more labels are not worse."""
    rising = np.maximum.accumulate(accuracy)
    return float(np.interp(target, rising, sizes)) if rising[-1] >= target else float("inf")
