"""The rows that a head classifies: a table of ways to get them from a document, each with its backward pass.

Each function takes a Doc and returns an array (n_rows, width) and a callback that takes the gradient of those rows
and adds it to `doc._.trf_d_last_hidden_state` or `doc._.trf_d_pooler_output`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from spacy.tokens import Doc
from thinc.api import get_array_module

from .. import attributes
from ..pieces.pieces import Pieces

NO_OUTPUT = "this Doc has no transformer output yet: 'trf_tok2vec' must stand before this component"
Rows = tuple[Any, Callable[[Any], None]]


def class_vectors(doc: Doc) -> Rows:
    """A row per sentence: the vector of its class piece, the mean over its windows."""
    pieces, states = Pieces.of(doc), doc._.trf_class_states
    whole = states is None  # else the transformer has picked them
    if whole:
        states = _hidden(doc)[pieces.window_class.tolist()]
    xp = get_array_module(states)
    sentences, counts = np.unique(pieces.window_sentence, return_counts=True)
    place = np.searchsorted(sentences, pieces.window_sentence)
    share = xp.asarray((1 / counts)[place], dtype=states.dtype)[:, None]
    rows = xp.zeros((len(sentences), states.shape[1]), dtype=states.dtype)
    place = xp.asarray(place)
    xp.add.at(rows, place, states * share)

    def backprop(d_rows: Any) -> None:
        d_states = d_rows[place] * share
        if whole:
            gradient = doc._.trf_d_last_hidden_state
            xp.add.at(gradient, xp.asarray(pieces.window_class), d_states)
            doc._.trf_d_last_hidden_state = gradient
        else:
            doc._.trf_d_class_states += d_states

    return rows, backprop


def pooler_output(doc: Doc) -> Rows:
    """A row per sentence: what the model's own pooler makes of the class vector.

    Raises ValueError where the model has no pooler.
    """
    if attributes.OUTPUTS not in doc.user_data:
        raise ValueError(NO_OUTPUT)
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
OF_CLASS_PIECES = {"class_vector", "pooler"}


def _hidden(doc: Doc) -> Any:
    hidden = doc._.trf_last_hidden_state
    if hidden is None and doc._.trf_class_states is not None:
        raise ValueError(
            "training computed class pieces alone of this Doc, because no head reads more: "
            "pass annotates=['trf_tok2vec'] to nlp.update"
        )
    if hidden is None:
        raise ValueError(NO_OUTPUT)
    return hidden
