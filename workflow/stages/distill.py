"""Train a student: a small pipeline that learns what the best model predicts, and then needs spaCy alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from spacy.language import Language
from thinc.api import require_cpu
from tqdm import tqdm

from rootstock import outcomes

from ..corpus import slices
from ..corpus.predictions import arrays, predict
from ..engine.params import Params
from ..engine.stage import main
from ..files import write_json
from ..model import scores, students, words
from ..model.determinism import make_deterministic

Soft = list[tuple[str, np.ndarray]]  # texts with the probability of each label (n_labels,); NaN where it is unknown


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    make_deterministic(params)
    out, select_by, exclusive = outputs["student"], params.select_by, params.data.exclusive
    settings = students.settings(params, out.name)
    teacher = spacy.load(inputs["best"] / "pipeline")
    labels = list(outcomes.classifier(teacher).labels)
    rows = labelled(teacher, inputs["wordpieces/train"], labels, settings.gold)
    rows += annotated(inputs["annotated"], labels, exclusive, settings.documents, random.Random(params.seed))
    if settings.architecture == "ngrams" and words.ignores_case(teacher):  # but spaCy's n-grams do not
        rows += [(text.lower(), soft) for text, soft in rows if text.lower() != text]
    nlp = spacy.blank(params.language)
    docs = list(nlp.tokenizer.pipe(tqdm([text for text, _ in rows], "tokenize", unit=" docs", disable=None)))
    if settings.architecture == "cnn" and settings.vectors:
        nlp.vocab.vectors = words.vectors_of(teacher, docs, settings.vectors)
    require_cpu()  # in production, a student runs on CPUs
    students.add_classifier(nlp, labels, exclusive, settings)
    targets = np.stack([soft for _, soft in rows])
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
        gold, predicted = np.array([found.gold, found.scores], "float32")
        mixed.append((found.text, gold_weight * gold + (1 - gold_weight) * predicted))
    return mixed


def annotated(folder: Path, labels: list[str], exclusive: bool, most: int, rng: random.Random) -> Soft:
    """What the teacher has predicted for the corpora of `annotate`; of more than `most` rows, some at random."""
    parts = slices.annotated(folder)
    total = sum(json.loads((part / "report.json").read_text("utf-8"))["documents"] for part in parts)
    drawn = set(rng.sample(range(total), min(most, total)))
    rows = (row for part in parts for row in slices.annotated_rows(part))
    return [
        (row["text"], _soft(row["scores"], labels, exclusive))
        for number, row in enumerate(rows)
        if number in drawn and row["predicted"] is not None
    ]


def _soft(listed: dict[str, float], labels: list[str], exclusive: bool) -> np.ndarray:
    """The probability of each label. A row lists the most probable ones; exclusive ones then sum to 1 again."""
    found = np.array([listed.get(label, 0.0) for label in labels], "float32")
    return found / found.sum() if exclusive else found


if __name__ == "__main__":
    main("distill", run)
