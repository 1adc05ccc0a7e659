"""Train a student: a small pipeline that learns what the best model predicts, and then needs spaCy alone."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from spacy.language import Language
from tqdm import tqdm

from rootstock import outcomes

from ..corpus.predictions import arrays, predict
from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json
from ..model import scores, students, words
from ..model.determinism import make_deterministic

Soft = list[tuple[str, list[float]]]  # texts with the probability of each label; NaN where it is unknown


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    make_deterministic(params)
    out, select_by, exclusive = outputs["student"], params.select_by, params.data.exclusive
    settings = students.settings(params, out.name)
    teacher = spacy.load(inputs["best"] / "pipeline")
    labels = list(outcomes.classifier(teacher).labels)
    rows = labelled(teacher, inputs["wordpieces/train"], labels, settings.gold)
    rows += annotated(inputs["annotated"], labels, settings.documents, random.Random(params.seed))
    if settings.architecture == "ngrams" and words.ignores_case(teacher):  # which spaCy's n-grams do not
        rows += [(text.lower(), soft) for text, soft in rows if text.lower() != text]
    nlp = spacy.blank(params.language)
    docs = list(nlp.tokenizer.pipe(tqdm([text for text, _ in rows], "tokenize", unit=" docs", disable=None)))
    if settings.architecture == "cnn" and settings.vectors:
        nlp.vocab.vectors = words.vectors_of(teacher, docs, settings.vectors)
    students.add_classifier(nlp, labels, exclusive, settings)
    targets = np.array([soft for _, soft in rows])
    curve: list[dict[str, float]] = []
    bar = tqdm(students.learn(nlp, docs, targets, settings, params.seed), out.name, settings.epochs, disable=None)
    for epoch, loss in enumerate(bar, 1):
        dev = scores.on_dev(*arrays(predict(nlp, inputs["wordpieces/dev"], labels), len(labels)), exclusive)
        curve.append({"epoch": epoch, "train_loss": loss, **dev})
        if scores.best_of(curve, select_by) == epoch - 1:
            nlp.to_disk(out / "pipeline")
    write_json(out / "curve.json", curve)
    best = curve[scores.best_of(curve, select_by)]
    print(f"{len(rows)} documents; best after pass {best['epoch']}: dev accuracy {best['dev_accuracy']:.4f}")
    return {"documents": len(rows)}


def labelled(teacher: Language, folder: Path, labels: list[str], gold_weight: float) -> Soft:
    """The rows of train: their labels and what the teacher predicts, mixed. An unknown label stays unknown."""
    mixed = []
    for found in predict(teacher, folder, labels):
        gold = np.array(found.gold)
        mixed.append((found.text, (gold_weight * gold + (1 - gold_weight) * np.array(found.scores)).tolist()))
    return mixed


def annotated(folder: Path, labels: list[str], most: int, rng: random.Random) -> Soft:
    """What the teacher has predicted for the corpora of `annotate`; of more than `most` rows, some at random."""
    slices = sorted(path for path in folder.glob("*") if path.is_dir())
    total = sum(json.loads((part / "report.json").read_text("utf-8"))["documents"] for part in slices)
    drawn = set(rng.sample(range(total), min(most, total)))
    return [_soft(line, labels) for number, line in enumerate(_lines(slices)) if number in drawn]


def _lines(slices: list[Path]) -> Iterator[str]:
    for part in slices:
        with gzip.open(part / "rows.jsonl.gz", "rt", encoding="utf-8") as file:
            yield from file


def _soft(line: str, labels: list[str]) -> tuple[str, list[float]]:
    row = json.loads(line)
    return row["text"], [row["scores"].get(label, 0.0) for label in labels]  # the most probable are listed


if __name__ == "__main__":
    main("distill", run)
