"""Find labels of train that look wrong, with models that have not learned from them. Nothing is changed."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import spacy

from ..corpus import shards, tasks
from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json
from ..model import folds, suspicion
from ..model.determinism import make_deterministic

SHOWN = 100  # pairs of labels in the report


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    make_deterministic(params)
    out, exclusive = outputs["audit"], params.data.exclusive
    source = inputs["wordpieces/train"]
    labels = shards.report(source)["labels"]
    docs = list(shards.read(shards.files(source), spacy.blank(params.language).vocab))
    missing = 0.0 if exclusive else np.nan
    gold = np.array([[doc.cats.get(label, missing) for label in labels] for doc in docs])
    parts = folds.split(gold, params.audit.folds, exclusive, params.seed)
    p = folds.METHODS[out.name](params, inputs["weights"], docs, labels, gold, parts)
    suspects = suspicion.rank(gold, p, exclusive)
    named = [names(found, gold, labels, exclusive) for found in suspects]
    ranked = []
    for found, (given, suggested) in zip(suspects, named, strict=True):
        doc = docs[found.document]
        ticked = [label for label, value in zip(labels, gold[found.document], strict=True) if value == 1]
        score = {
            "score": round(found.score, 6),
            "given": given,
            "suggested": suggested,
            "row": doc.user_data[shards.ROW],
        }
        ranked.append(tasks.task(doc.text, labels, exclusive, ticked, score))
    tasks.write(ranked, out / "suspects.jsonl")
    wrong = suspicion.estimate(gold, p, exclusive, params.evaluate.confidence, params.seed)
    pairs = Counter(named[: round(wrong["n"])])
    report = {
        "documents": len(docs),
        "suspects": len(suspects),
        "wrong": {key: round(wrong[key], 6) for key in ("share", "low", "high")},
        "pairs": [{"given": a, "suggested": b, "count": n} for (a, b), n in pairs.most_common(SHOWN)],
    }
    write_json(out / "report.json", report)
    interval = f"{wrong['low']:.1%} to {wrong['high']:.1%}"
    print(
        f"about {wrong['share']:.1%} of the labels of train look wrong ({interval}); {len(suspects)} documents ranked"
    )


def names(found: suspicion.Suspect, gold: np.ndarray, labels: list[str], exclusive: bool) -> tuple[str, str]:
    """The label that looks wrong, and the one that the models prefer. If not exclusive, a label or its absence."""
    if exclusive:
        return labels[found.given], labels[found.suggested]
    applies, absent = labels[found.given], f"not {labels[found.given]}"
    return (applies, absent) if gold[found.document, found.given] else (absent, applies)


if __name__ == "__main__":
    main("audit", run)
