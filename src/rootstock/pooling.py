"""The rows that a head classifies: a table of ways to get them from a document, each with its backward pass.

Each function takes a Doc and returns an array (n_rows, width) and a callback that takes the gradient of those rows
and adds it to `doc._.trf_d_last_hidden_state` or `doc._.trf_d_pooler_output`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from spacy.tokens import Doc
from thinc.api import get_array_module

from .pieces import Pieces

Rows = tuple[Any, Callable[[Any], None]]


def class_vectors(doc: Doc) -> Rows:
    """A row per sentence: the vector of its class piece, the mean over its windows."""
    hidden, pieces = _hidden(doc), Pieces.of(doc)
    xp = get_array_module(hidden)
    sentences, counts = np.unique(pieces.window_sentence, return_counts=True)
    place = np.searchsorted(sentences, pieces.window_sentence)
    share = xp.asarray((1 / counts)[place], dtype=hidden.dtype)[:, None]
    rows = xp.zeros((len(sentences), hidden.shape[1]), dtype=hidden.dtype)
    place, speakers = xp.asarray(place), xp.asarray(pieces.window_class)
    xp.add.at(rows, place, hidden[speakers] * share)

    def backprop(d_rows: Any) -> None:
        gradient = doc._.trf_d_last_hidden_state
        xp.add.at(gradient, speakers, d_rows[place] * share)
        doc._.trf_d_last_hidden_state = gradient

    return rows, backprop


def pooler_output(doc: Doc) -> Rows:
    """A row per sentence: what the model's own pooler makes of the class vector.

    Raises ValueError where the model has no pooler.
    """
    _hidden(doc)
    pooled = doc._.trf_pooler_output
    if pooled is None:
        raise ValueError("this transformer has no pooler: choose another head, such as 'class_vector'")

    def backprop(d_rows: Any) -> None:
        doc._.trf_d_pooler_output += d_rows

    return pooled, backprop


def mean_of_tokens(doc: Doc) -> Rows:
    """One row: the mean of `doc.tensor`. Sums being preserved, that is the sum over pieces by the number of tokens."""
    hidden, n_tokens = _hidden(doc), len(doc)

    def backprop(d_rows: Any) -> None:
        if n_tokens:
            doc._.trf_d_last_hidden_state += d_rows / n_tokens

    return hidden.sum(axis=0, keepdims=True)[:n_tokens] / max(1, n_tokens), backprop


def last_hidden_state(doc: Doc) -> Rows:
    """A row per piece."""

    def backprop(d_rows: Any) -> None:
        doc._.trf_d_last_hidden_state += d_rows

    return _hidden(doc), backprop


POOLING: dict[str, Callable[[Doc], Rows]] = {
    "class_vector": class_vectors,
    "pooler": pooler_output,
    "mean": mean_of_tokens,
    "last_hidden": last_hidden_state,
}


def _hidden(doc: Doc) -> Any:
    hidden = doc._.trf_last_hidden_state
    if hidden is None:
        raise ValueError("this Doc has no transformer output yet: 'trf_tok2vec' must stand before this component")
    return hidden
