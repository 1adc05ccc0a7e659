"""Temperature scaling, which calibrates the probabilities of a classifier.

Source: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import to_numpy

from . import scores

LOGARITHMS = (-5.0, 5.0)  # of the temperatures among which the best is searched


def calibrate(nlp: Language, docs: Iterable[Doc], exclusive: bool) -> dict[str, Any]:
    """Divide the logits of a pipeline by the temperature that gives the lowest log loss on documents with labels.

    No prediction changes if classes are exclusive and a document has one row of logits. RETURNS: the temperature, with
    log loss and calibration error before and after.
    """
    from scipy.optimize import minimize_scalar

    head = nlp.get_pipe("trf_textcat")
    gold, logits, starts = logits_of(nlp, docs)

    def probabilities(temperature: float) -> np.ndarray:
        scaled = logits / temperature
        if exclusive:
            scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
            scaled /= scaled.sum(axis=1, keepdims=True)
        else:
            scaled = 1 / (1 + np.exp(-scaled))
        return np.add.reduceat(scaled, starts) / np.diff([*starts, len(scaled)])[:, None]

    def figures(temperature: float) -> dict[str, float]:
        p = probabilities(temperature)
        error = scores.calibration(gold, p, exclusive)[1]
        return {"log_loss": float(scores.log_loss(gold, p, exclusive).mean()), "calibration_error": error}

    found = minimize_scalar(lambda log: figures(float(np.exp(log)))["log_loss"], bounds=LOGARITHMS, method="bounded")
    temperature = float(np.exp(found.x))
    weights, bias = (to_numpy(head.linear.get_param(name)) for name in ("W", "b"))
    head.set_weights(weights / temperature, bias / temperature)
    return {"temperature": temperature, "before": figures(1.0), "after": figures(temperature)}


def logits_of(nlp: Language, docs: Iterable[Doc]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """gold (n_docs, n_labels); logits (n_rows, n_labels); where the rows of each document begin (n_docs,).

    Documents without rows are left out.
    """
    head = nlp.get_pipe("trf_textcat")
    gold, logits = [], []
    for doc in nlp.get_pipe("trf_tok2vec").pipe(docs):
        rows = to_numpy(head.logits([doc])[0]).astype("float64")
        if len(rows):
            gold.append([doc.cats.get(label, float("nan")) for label in head.labels])
            logits.append(rows)
    starts = np.cumsum([0, *map(len, logits[:-1])])
    return np.array(gold), np.concatenate(logits), starts
