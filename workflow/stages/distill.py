"""Train a student: a pipeline that learns what the best model predicts."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable
from heapq import nlargest
from pathlib import Path
from typing import Any

import numpy as np
import spacy
from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import require_cpu
from tqdm import tqdm

from rootstock import outcomes

from ..corpus import slices
from ..corpus.predictions import arrays, predict
from ..engine.params import Learner, Params
from ..engine.stage import main
from ..files import write_json
from ..model import scores, self_training, students, words
from ..model.determinism import make_deterministic
from ..model.pipeline import build

Soft = list[tuple[str, np.ndarray]]  # texts with the probability of each label (n_labels,); NaN where it is unknown
Passes = Iterable[float]  # trains a pipeline; gives the loss per document after each pass


def run(params: Params, inputs: dict[str, Path], outputs: dict[str, Path]) -> dict[str, Any]:
    make_deterministic(params)
    out, select_by, exclusive = outputs["student"], params.select_by, params.data.exclusive
    settings = students.settings(params, out.name)
    teacher = spacy.load(inputs["best"] / "pipeline")
    labels = list(outcomes.classifier(teacher).labels)
    rows = labelled(teacher, inputs["wordpieces/train"], labels, settings.gold)
    rows += annotated(inputs["annotated"], labels, exclusive, settings, random.Random(params.seed))
    nlp, passes = BEGIN[settings.architecture](params, out.name, inputs["weights"], teacher, rows)
    curve: list[dict[str, float]] = []
    for epoch, loss in enumerate(passes, 1):
        dev = scores.on_dev(*arrays(predict(nlp, inputs["wordpieces/dev"], labels), len(labels)), exclusive)
        curve.append({"epoch": epoch, "train_loss": loss, **dev})
        if scores.best_of(curve, select_by) == epoch - 1:
            nlp.to_disk(out / "pipeline")
    write_json(out / "curve.json", curve)
    best = curve[scores.best_of(curve, select_by)]
    print(f"{len(rows)} documents; best after pass {best['epoch']}: dev accuracy {best['dev_accuracy']:.4f}")
    return {"documents": len(rows)}


def small(params: Params, student: str, weights: Path, teacher: Language, rows: Soft) -> tuple[Language, Passes]:
    """A pipeline without a transformer."""
    settings, labels = students.settings(params, student), list(outcomes.classifier(teacher).labels)
    if settings.architecture == "ngrams" and words.ignores_case(teacher):  # but spaCy's n-grams do not
        rows += [(text.lower(), soft) for text, soft in rows if text.lower() != text]
    nlp = spacy.blank(params.language)
    docs, targets = tokenized(nlp, rows)
    if settings.architecture == "cnn" and settings.vectors:
        nlp.vocab.vectors = words.vectors_of(teacher, docs, settings.vectors)
    require_cpu()  # in production, it runs on CPUs
    students.add_classifier(nlp, labels, params.data.exclusive, settings)
    passes = students.learn(nlp, docs, targets, settings, params.seed)
    return nlp, tqdm(passes, student, settings.epochs, disable=None)


def transformer(params: Params, student: str, weights: Path, teacher: Language, rows: Soft) -> tuple[Language, Passes]:
    """A pipeline like the teacher."""
    params = params.model_copy(update={"finetune": self_training.settings(params, student)})
    nlp = build(params, weights, list(outcomes.classifier(teacher).labels))
    return nlp, self_training.learn(nlp, *tokenized(nlp, rows), params.finetune, params.seed)


BEGIN = {"cnn": small, "ngrams": small, "transformer": transformer}  # by the setting `architecture`


def tokenized(nlp: Language, rows: Soft) -> tuple[list[Doc], np.ndarray]:
    """Docs and their targets, (n_docs, n_labels)."""
    texts = tqdm([text for text, _ in rows], "tokenize", unit=" docs", disable=None)
    return list(nlp.tokenizer.pipe(texts)), np.stack([soft for _, soft in rows])


def labelled(teacher: Language, folder: Path, labels: list[str], gold_weight: float) -> Soft:
    """The rows of train: their labels and what the teacher predicts, mixed. An unknown label stays unknown."""
    mixed = []
    for found in predict(teacher, folder, labels):
        gold, predicted = np.array([found.gold, found.scores], "float32")
        mixed.append((found.text, gold_weight * gold + (1 - gold_weight) * predicted))
    return mixed


def annotated(folder: Path, labels: list[str], exclusive: bool, settings: Learner, rng: random.Random) -> Soft:
    """What the teacher has predicted for the corpora of `annotate`; of too many rows, some at random."""
    parts = slices.annotated(folder)
    total = sum(json.loads((part / "report.json").read_text("utf-8"))["documents"] for part in parts)
    drawn = set(rng.sample(range(total), min(settings.documents, total)))
    every = enumerate(row for part in parts for row in slices.annotated_rows(part))
    rows = [row for number, row in every if number in drawn and row["predicted"] is not None]
    if settings.surest:
        rows = surest(rows, settings.surest)
    if settings.hard_labels:
        predicted = [[row["predicted"]] if exclusive else row["predicted"] for row in rows]
        return [(row["text"], np.isin(labels, its).astype("float32")) for row, its in zip(rows, predicted, strict=True)]
    return [(row["text"], _soft(row["scores"], labels, exclusive)) for row in rows]


def surest(rows: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Of the rows with the same prediction, the n with the largest margins."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[json.dumps(row["predicted"])].append(row)
    return [row for group in groups.values() for row in nlargest(n, group, key=lambda row: row["margin"])]


def _soft(listed: dict[str, float], labels: list[str], exclusive: bool) -> np.ndarray:
    """The probability of each label. A row lists the most probable ones; exclusive ones then sum to 1 again."""
    found = np.array([listed.get(label, 0.0) for label in labels], "float32")
    return found / found.sum() if exclusive else found


if __name__ == "__main__":
    main("distill", run)
