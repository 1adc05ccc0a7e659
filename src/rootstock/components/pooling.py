"""Pooling functions: from a document to the rows that a head classifies.

Each takes a Doc and returns an array (n_rows, width) and its backward pass: a callback that takes the gradient of these
rows and adds it to `doc._.trf_d_last_hidden_state` or `doc._.trf_d_pooler_output`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from spacy.tokens import Doc
from thinc.api import get_array_module

from .. import attributes
from ..pieces.pieces import Pieces

NO_OUTPUT = "this Doc has no transformer output yet: add 'trf_tok2vec' to the pipeline before this component"
Rows = tuple[Any, Callable[[Any], None]]  # array (n_rows, width), backward pass


def class_vectors(doc: Doc) -> Rows:
    """One row per sentence: the vector of its class piece, averaged over its windows.

    Raises ValueError if the Doc has no transformer output.
    """
    pieces, states = Pieces.of(doc, aligned=False), doc._.trf_class_states
    has_all_pieces = states is None  # else the transformer has computed class pieces only
    if has_all_pieces:
        states = _hidden(doc)[pieces.window_class.tolist()]
    xp = get_array_module(states)
    sentences, counts = np.unique(pieces.window_sentence, return_counts=True)
    row_of = np.searchsorted(sentences, pieces.window_sentence)
    weights = xp.asarray((1 / counts)[row_of], dtype=states.dtype)[:, None]
    rows = xp.zeros((len(sentences), states.shape[1]), dtype=states.dtype)
    row_of = xp.asarray(row_of)
    xp.add.at(rows, row_of, states * weights)

    def backprop(d_rows: Any) -> None:
        d_states = d_rows[row_of] * weights
        if has_all_pieces:
            gradient = doc._.trf_d_last_hidden_state
            xp.add.at(gradient, xp.asarray(pieces.window_class), d_states)
            doc._.trf_d_last_hidden_state = gradient
        else:
            doc._.trf_d_class_states += d_states

    return rows, backprop


def pooler_output(doc: Doc) -> Rows:
    """One row per sentence: the output of the model's own pooler.

    Raises ValueError if the Doc has no transformer output, or the model has no pooler.
    """
    if attributes.OUTPUTS not in doc.user_data:
        raise ValueError(NO_OUTPUT)
    pooled = doc._.trf_pooler_output
    pieces = Pieces.of(doc, aligned=False)
    if pooled is None and not len(pieces.ids):  # also if the model has a pooler
        hidden = _hidden(doc)
        pooled = get_array_module(hidden).zeros((pieces.n_sentences, hidden.shape[1]), dtype=hidden.dtype)
    if pooled is None:
        raise ValueError("this transformer has no pooler: choose another head, such as 'class_vector'")

    def backprop(d_rows: Any) -> None:
        doc._.trf_d_pooler_output += d_rows

    return pooled, backprop


def mean_of_tokens(doc: Doc) -> Rows:
    """One row: the mean of `doc.tensor`, computed as the sum over pieces divided by the number of tokens.

    The alignment preserves sums, so both are equal. A Doc without tokens has no row.
    Raises ValueError if the Doc has no transformer output.
    """
    hidden, n_tokens = _hidden(doc), Pieces.of(doc, aligned=False).n_tokens

    def backprop(d_rows: Any) -> None:
        if n_tokens:
            doc._.trf_d_last_hidden_state += d_rows / n_tokens

    return hidden.sum(axis=0, keepdims=True)[:n_tokens] / max(1, n_tokens), backprop


def last_hidden_state(doc: Doc) -> Rows:
    """One row per piece.

    Raises ValueError if the Doc has no transformer output.
    """

    def backprop(d_rows: Any) -> None:
        doc._.trf_d_last_hidden_state += d_rows

    return _hidden(doc), backprop


POOLING: dict[str, Callable[[Doc], Rows]] = {
    "class_vector": class_vectors,
    "pooler": pooler_output,
    "mean": mean_of_tokens,
    "last_hidden": last_hidden_state,
}
CLASS_PIECE_POOLING = {"class_vector", "pooler"}  # these read no other piece


def _hidden(doc: Doc) -> Any:
    hidden = doc._.trf_last_hidden_state
    if hidden is None and doc._.trf_class_states is not None:
        raise ValueError(
            "training computed only the class pieces of this Doc, because no head reads others: "
            "pass annotates=['trf_tok2vec'] to nlp.update"
        )
    if hidden is None:
        raise ValueError(NO_OUTPUT)
    return hidden
