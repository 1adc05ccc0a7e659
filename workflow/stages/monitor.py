"""Compare recent text with the test split: has it changed, and how good is the model on it?"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from spacy.tokens import Doc

from rootstock import outcomes
from rootstock.pieces.pieces import Pieces

from ..corpus import rows, shards, slices
from ..corpus.rows import Record, Tally
from ..engine.errors import Problem
from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json
from ..model import drift, scores
from ..model.determinism import make_deterministic

DIFFERING = 20  # rows to list on which the model and the one in production disagree
BATCH = 128  # documents
PRODUCTION = "production"  # column: what another model, in production, has predicted


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> None:
    make_deterministic(params)
    out, level = outputs["monitor"], params.evaluate.confidence
    tally = Tally()
    stream = slices.read(Path(params.monitor.corpora[out.name]), params.data, tally)
    records, n_rows = drawn(stream, params.seed)
    if len(records) < LEAST:
        raise Problem(f"monitor.corpora.{out.name} has {len(records)} rows: {LEAST} or more are needed")
    nlp = spacy.load(inputs["best"] / "pipeline")
    nlp.max_length = sys.maxsize  # the limit is meant for parsers
    textcat = outcomes.classifier(nlp)
    labels = list(textcat.labels)
    thresholds = np.array([outcomes.threshold_of(textcat, label) for label in labels])
    exclusive = params.data.exclusive

    unknown = nlp.get_pipe("trf_wordpiecer").tokenizer.unk_token_id

    def sample(source: Iterable[Doc | str]) -> drift.Sample:
        words, n_unknown, found = [], [], []
        for doc in nlp.pipe(source, batch_size=BATCH):
            words.append(_words(doc))
            n_unknown.append(int((Pieces.of(doc, aligned=False).ids == unknown).sum()))
            found.append([doc.cats[label] for label in labels])
        p = np.array(found)
        return drift.Sample(words, np.array(n_unknown), p, scores.decide(p, exclusive, thresholds))

    gold = np.array([[doc.cats.get(label, np.nan) for label in labels] for doc in _split(inputs, "test", nlp)])
    test, recent = sample(_split(inputs, "test", nlp)), sample(record.text for record in records)
    known = {word for doc in _split(inputs, "train", nlp) for word in _words(doc)}
    findings, telling = drift.compare(test, recent, known, labels, params.seed)
    test_right = scores.correct(gold, test.decided)
    confident = [_confidence(side, exclusive) for side in (test, recent)]
    estimated = drift.estimated_accuracy(confident[0], test_right, confident[1], level, params.seed)
    report: dict[str, Any] = {
        "rows": n_rows,
        "documents": len(records),
        "skipped": tally.skipped,
        "test_accuracy": round(float(test_right.mean()), 6),
        "estimated": {key: round(value, 6) for key, value in estimated.items()},
        "labelled": labelled(records, recent, labels, exclusive, level),
        "production": beside_production(records, recent, labels) if exclusive else None,
        "findings": [finding._asdict() for finding in findings],
        "telling": telling,
    }
    write_json(out / "report.json", report)
    print(f"{len(records)} documents; estimated accuracy {estimated['accuracy']:.3f}, on test {test_right.mean():.3f}")


LEAST, MOST = 20, 20_000  # rows: of fewer nothing can be said; of more, some are drawn, so that they fit in memory


def drawn(records: Iterator[Record], seed: int) -> tuple[list[Record], int]:
    """At most MOST of the records, at random, in their order; and how many there are."""
    rng, n = random.Random(seed), 0
    kept: list[tuple[int, Record]] = []
    for n, record in enumerate(records, 1):
        if len(kept) < MOST:
            kept.append((n, record))
        elif (place := rng.randrange(n)) < MOST:
            kept[place] = (n, record)
    return [record for _, record in sorted(kept, key=lambda pair: pair[0])], n


def _split(inputs: dict[str, Path], split: str, nlp: spacy.Language) -> Iterator[Doc]:
    return shards.read(shards.files(inputs[f"wordpieces/{split}"]), nlp.vocab)


def _words(doc: Doc) -> list[str]:
    return [token.text for token in doc if not token.is_space]


def _confidence(side: drift.Sample, exclusive: bool) -> np.ndarray:
    """How probable it is that each document is predicted correctly, if the probabilities are calibrated."""
    if exclusive:
        return side.scores.max(axis=1)
    return np.where(side.decided, side.scores, 1 - side.scores).prod(axis=1)


def labelled(
    records: list[Record], recent: drift.Sample, labels: list[str], exclusive: bool, level: float
) -> dict[str, Any] | None:
    """The accuracy on the rows that have a label; None if there are none."""
    right = []
    for record, decided in zip(records, recent.decided, strict=True):
        if said := rows.labels_of(record.columns, exclusive):
            given, complete = said
            predicted = {label for label, is_in in zip(labels, decided, strict=True) if is_in}
            true = {label for label, applies in given.items() if applies}
            right.append(
                true == predicted if complete else all((label in predicted) == is_in for label, is_in in given.items())
            )
    if not right:
        return None
    low, high = scores.wilson(sum(right), len(right), level)
    return {"documents": len(right), "accuracy": sum(right) / len(right), "low": low, "high": high}


def beside_production(records: list[Record], recent: drift.Sample, labels: list[str]) -> dict[str, Any] | None:
    """How often the model agrees with the one in production, and the rows where it disagrees most surely."""
    differing, total = [], 0
    for record, p in zip(records, recent.scores, strict=True):
        theirs = record.columns.get(PRODUCTION)
        if theirs:  # also a label that the model does not know
            total += 1
            ours = labels[int(p.argmax())]
            if ours != theirs:
                differing.append(
                    {
                        "row": record.where,
                        "text": record.text,
                        "production": theirs,
                        "predicted": ours,
                        "probability": round(float(p.max()), 6),
                    }
                )
    if not total:
        return None
    most = sorted(differing, key=lambda row: -row["probability"])[:DIFFERING]
    return {"documents": total, "agreement": 1 - len(differing) / total, "differing": most}


if __name__ == "__main__":
    main("monitor", run)
