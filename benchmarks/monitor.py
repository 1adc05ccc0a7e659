"""How often the tests of `monitor` raise an alarm: where nothing has changed, and where something has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from . import data, sst2
from .report import Report

LABELS = ["NEGATIVE", "POSITIVE"]
ROWS = 500  # recent ones
POSITIVE = 0.65  # share of them, where the shares of labels have moved


def run(full: bool) -> Report:
    """Against one half of SST-2's test: 500 rows of the other, as they are, with sentences of IMDB, or other shares."""
    from workflow.model import drift

    n_null, n_changed = (1000, 100) if full else (100, 20)
    folder = sst2.run("annotate", annotate={"corpora": {"imdb": str(sst2.sentences())}})
    test = _read(folder / "data/evaluation/base/test.jsonl")
    positive = np.array([row["gold"]["POSITIVE"] == 1 for row in test])
    imdb = _annotated(folder)
    sides = {"test": _sample(test), "imdb": _sample(imdb)}
    known = {word for row in data.read_rows(data.SHARED / "sst2/train.jsonl") for word in _words([row["text"]])[0]}
    lengths = {name: np.array(list(map(len, side.words))) for name, side in sides.items()}
    by_length = {n: np.flatnonzero(lengths["imdb"] == n) for n in set(lengths["imdb"].tolist())}

    def draw(kind: str | float, rng: np.random.Generator) -> tuple[Any, Any]:
        order = rng.permutation(len(test))
        half, rest = order[: len(test) // 2], order[len(test) // 2 :]
        recent = rest[:ROWS]
        if kind == "labels":
            n = round(POSITIVE * ROWS)
            recent = np.concatenate([rest[positive[rest]][:n], rest[~positive[rest]][: ROWS - n]])
        reference, found = _taken(sides["test"], half), _taken(sides["test"], recent)
        if isinstance(kind, float):
            n = round(kind * ROWS)
            others = [rng.choice(by_length[_nearest(lengths["test"][i], by_length)]) for i in recent[:n]]
            kept, mixed = _taken(sides["test"], recent[n:]), _taken(sides["imdb"], np.array(others))
            found = drift.Sample(
                kept.words + mixed.words,
                *(np.concatenate(pair) for pair in zip(kept[1:], mixed[1:], strict=True)),
            )
        return reference, found

    def alarms(kind: str | float, n: int) -> float:
        found = [drift.compare(*draw(kind, np.random.default_rng(i)), known, LABELS, 0)[0] for i in range(n)]
        return float(np.mean([min(finding.p for finding in findings) < 0.05 for findings in found]))

    notes = [
        f"random halves of SST-2's test, {n_null} draws: alarms {alarms('nothing', n_null):.3f}",
        *(
            f"{share:.0%} sentences of IMDB, as long, {n_changed} draws: alarms {alarms(share, n_changed):.3f}"
            for share in (0.1, 0.2)
        ),
        f"{POSITIVE:.0%} positive instead of half, {n_changed} draws: alarms {alarms('labels', n_changed):.3f}",
    ]
    return Report("monitor", notes=notes)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def _annotated(folder: Path) -> list[dict[str, Any]]:
    import gzip

    rows = []
    for path in sorted((folder / "data/annotated").glob("imdb_*/rows.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows += list(map(json.loads, file))
    return rows


def _words(texts: list[str]) -> list[list[str]]:
    import spacy

    nlp = _words.__dict__.setdefault("nlp", spacy.blank("en"))
    return [[token.text for token in doc if not token.is_space] for doc in nlp.tokenizer.pipe(texts)]


def _sample(rows: list[dict[str, Any]]) -> Any:
    from workflow.model import drift

    p = np.array([[row["scores"][label] for label in LABELS] for row in rows])
    decided = np.arange(2) == p.argmax(axis=1)[:, None]
    return drift.Sample(_words([row["text"] for row in rows]), np.zeros(len(rows)), p, decided)


def _taken(sample: Any, rows: np.ndarray) -> Any:
    return sample._replace(
        words=[sample.words[i] for i in rows],
        unknown=sample.unknown[rows],
        scores=sample.scores[rows],
        decided=sample.decided[rows],
    )


def _nearest(length: int, by_length: dict[int, np.ndarray]) -> int:
    return min(by_length, key=lambda n: abs(n - length))
