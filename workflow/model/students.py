"""Small text classifiers of spaCy's own that learn from probabilities. A saved one needs spaCy alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Adam, Optimizer, set_dropout_rate

from ..engine.params import Learner, Params


def settings(params: Params, student: str) -> Learner:
    """The settings of `distill`, with those that the student replaces."""
    shared = params.distill.model_dump(exclude={"students"})
    return Learner(**shared | params.distill.students[student])


def add_classifier(nlp: Language, labels: list[str], exclusive: bool, settings: Learner) -> None:
    """Add spaCy's `textcat` or `textcat_multilabel`, untrained, to a blank pipeline that may have vectors."""
    model = ARCHITECTURES[settings.architecture](settings) | {"exclusive_classes": exclusive}
    pipe = nlp.add_pipe("textcat" if exclusive else "textcat_multilabel", "textcat", config={"model": model})
    examples = []
    for label in labels:
        pipe.add_label(label)
        doc = nlp.make_doc(label)
        reference = doc.copy()
        reference.cats = {label: 1.0}
        examples.append(Example(doc, reference))
    nlp.initialize(lambda: examples)


# The model of spaCy's component, by the setting `architecture`.
ARCHITECTURES: dict[str, Callable[[Learner], dict[str, Any]]] = {
    "cnn": lambda settings: {
        "@architectures": "spacy.TextCatReduce.v1",
        "use_reduce_first": False,
        "use_reduce_last": False,
        "use_reduce_max": True,
        "use_reduce_mean": True,
        "tok2vec": {
            "@architectures": "spacy.Tok2Vec.v2",
            "embed": {
                "@architectures": "spacy.MultiHashEmbed.v2",
                "width": WIDTH,
                "attrs": ["NORM"],  # small letters
                "rows": [5000],
                "include_static_vectors": settings.vectors > 0,
            },
            "encode": {
                "@architectures": "spacy.MaxoutWindowEncoder.v2",
                "width": WIDTH,
                "depth": settings.depth,
                "window_size": 1,
                "maxout_pieces": 2,
            },
        },
    },
    "ngrams": lambda settings: {
        "@architectures": "spacy.TextCatBOW.v3",
        "ngram_size": settings.ngram_size,
        "length": settings.buckets,
        "no_output_layer": False,
    },
}
WIDTH = 96  # of a cnn, as in spaCy


def learn(nlp: Language, docs: list[Doc], targets: np.ndarray, settings: Learner, seed: int) -> Iterator[float]:
    """Train in place. Yields the loss per document, in nats, after each pass over the documents.

    targets: (n_docs, n_labels), probabilities; NaN where a label is unknown.

    spaCy's own `update` takes only labels that apply or do not.
    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".
    """
    model, rng = nlp.get_pipe("textcat").model, random.Random(seed)
    order = list(range(len(docs)))
    rates = falling(settings.learning_rate, settings.epochs * -(-len(docs) // settings.batch_size))
    optimizer = Adam(rates, L2=0.0, grad_clip=1.0, use_averages=False)
    for _ in range(settings.epochs):
        rng.shuffle(order)
        set_dropout_rate(model, settings.dropout)
        loss = 0.0
        for start in range(0, len(order), settings.batch_size):
            batch = order[start : start + settings.batch_size]
            loss += _update(model, [docs[i] for i in batch], targets[batch], optimizer)
        set_dropout_rate(model, 0.0)
        yield loss / len(docs)


def _update(model: Any, docs: list[Doc], targets: np.ndarray, optimizer: Optimizer) -> float:
    """One step. RETURNS: the sum of the losses."""
    known, targets = ~np.isnan(targets), np.nan_to_num(targets).astype("float32")
    predicted, backpropagate = model.begin_update(docs)
    p = np.clip(predicted, 1e-6, 1 - 1e-6)
    loss = -(targets * np.log(p))
    if model.attrs["multi_label"]:
        loss -= (1 - targets) * np.log(1 - p)
    [gradient] = [GRADIENTS[layer.name] for layer in model.walk() if layer.name in GRADIENTS]
    optimizer.step_schedules()
    backpropagate(gradient(p, targets) * known / len(docs))
    model.finish_update(optimizer)
    return float((loss * known).sum())


# The gradient of the cross-entropy, by the layer that computes the probabilities: what it expects to be given.
GRADIENTS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "softmax": lambda p, targets: p - targets,
    "softmax_activation": lambda p, targets: -targets / p,
    "logistic": lambda p, targets: (p - targets) / (p * (1 - p)),
}


def falling(highest: float, steps: int) -> Iterator[float]:
    """The learning rate before the first step, and at each step."""
    yield highest
    for step in range(steps):
        yield highest * (1 - step / steps)
