"""Self-training: the pretrained transformer is fine-tuned once more, on the labels and on what the teacher predicts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import isnan

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from spacy.util import minibatch
from tqdm import tqdm

from ..engine.params import Finetune, Params
from . import recipe, vectors


def settings(params: Params, student: str) -> Finetune:
    """The settings of `finetune`, with those that the student replaces."""
    own = {key: value for key, value in params.distill.students[student].items() if key in Finetune.model_fields}
    return params.finetune.model_copy(update={**own, "contrastive": False, "max_steps": None, "label_smoothing": 0.0})


def learn(nlp: Language, docs: list[Doc], targets: np.ndarray, settings: Finetune, seed: int) -> Iterator[float]:
    """Train in place. Yields the loss per document, in nats, after each pass over the documents.

    targets: (n_docs, n_labels), probabilities; NaN where a label is unknown.
    """
    textcat, rng = nlp.get_pipe("trf_textcat"), random.Random(seed)
    for doc, known in zip(docs, targets.tolist(), strict=True):
        doc.cats = {label: p for label, p in zip(textcat.labels, known, strict=True) if not isnan(p)}
    counts = dict(zip(textcat.labels, np.nansum(targets, axis=0).round().astype(int).tolist(), strict=True))
    optimizer, _ = recipe.begin(textcat, settings, counts, len(docs))
    order = list(range(len(docs)))
    for number in range(1, settings.epochs + 1):
        rng.shuffle(order)
        loss = 0.0
        batches = list(minibatch(order, settings.batch_size))
        for batch in tqdm(batches, f"pass {number} of {settings.epochs}", unit=" steps", disable=None):
            examples = [Example(vectors.detached(docs[i]), docs[i]) for i in batch]
            losses = {"trf_textcat": 0.0}
            optimizer.step_schedules()
            nlp.update(examples, drop=settings.dropout, sgd=optimizer, losses=losses)
            loss += losses["trf_textcat"] * len(examples)
        yield loss / len(docs)
