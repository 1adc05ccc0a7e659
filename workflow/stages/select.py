"""Choose unlabelled rows of a corpus to label next, as tasks for annotators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from spacy.vocab import Vocab

from ..corpus import shards, slices, tasks
from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json
from ..model import choice, vectors
from ..model.determinism import make_deterministic
from ..model.pipeline import build

Place = tuple[Path, int]  # a slice, and a line of it


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    make_deterministic(params)
    out, settings = outputs["select"], params.select
    nlp = build(params, inputs["weights"], [])
    known = labelled(inputs["wordpieces"], nlp.vocab)
    places, margins = candidates(inputs["annotated"], out.name, known)

    def vectors_of(rows: np.ndarray) -> np.ndarray:
        found = read([places[i] for i in rows])
        return vectors.of_texts(nlp, [row["text"] for row in found])

    n = min(settings.rows, len(places))
    rng = np.random.default_rng(params.seed)
    chosen = choice.STRATEGIES[settings.by](margins, vectors_of, n, rng) if n else np.array([], int)
    labels = shards.report(inputs["wordpieces"] / "train")["labels"]
    found = read([places[i] for i in chosen])
    tasks.write(
        (
            tasks.task(
                row["text"],
                labels,
                params.data.exclusive,
                [],
                {"score": row["margin"], "predicted": row["predicted"], "by": settings.by},
            )
            for row in found
        ),
        out / "tasks.jsonl",
    )
    write_json(out / "report.json", {"candidates": len(places), "chosen": len(found), "by": settings.by})
    print(f"{len(found)} of {len(places)} rows that are not labelled yet, by {settings.by}: {out / 'tasks.jsonl'}")


def labelled(folder: Path, vocab: Vocab) -> set[int]:
    """Hashes of the texts of train, dev and test."""
    return {hash(doc.text) for split in shards.SPLITS for doc in shards.read(shards.files(folder / split), vocab)}


def candidates(folder: Path, corpus: str, known: set[int]) -> tuple[list[Place], np.ndarray]:
    """The rows of an annotated corpus that are not labelled yet, each text once, and their margins."""
    places, margins, seen = [], [], set(known)
    for part in slices.annotated(folder, corpus):
        for number, row in enumerate(slices.annotated_rows(part)):
            if (text := hash(row["text"])) not in seen and row["predicted"] is not None:
                seen.add(text)
                places.append((part, number))
                margins.append(row["margin"])
    return places, np.array(margins)


def read(places: list[Place]) -> list[dict[str, Any]]:
    """The rows in these places, in this order."""
    found: dict[Place, dict[str, Any]] = {}
    for part in {part for part, _ in places}:
        numbers = {number for other, number in places if other == part}
        found |= {(part, number): row for number, row in enumerate(slices.annotated_rows(part)) if number in numbers}
    return [found[place] for place in places]


if __name__ == "__main__":
    main("select", run)
