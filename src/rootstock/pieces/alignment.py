"""Which wordpieces belong to which spaCy token, and what each gives to the other.

`doc.tensor` is `A @ H`: A (tokens x pieces) is sparse, its columns sum to one, so that no information is lost:
`(A @ H).sum(0) == H.sum(0)`. A piece aligned to k tokens gives each of them 1/k. A piece aligned to none (boundary
pieces; pieces of white space) gives each of the n tokens of its sentence 1/n.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from spacy.attrs import LENGTH, ORTH, SPACY
from spacy.tokens import Doc
from thinc.api import get_array_module, to_numpy

from .pieces import Pieces, bounds


class Tokens(NamedTuple):
    """spaCy's tokens of many documents, end to end."""

    hashes: np.ndarray  # uint64 (n_tokens,) of what they are written like
    spaces: np.ndarray  # bool (n_tokens,): whether a space follows
    spans: np.ndarray  # (n_tokens, 2) characters in all documents
    docs: np.ndarray  # (n_docs + 1,) the first token of each document, and the end

    @classmethod
    def of(cls, docs: list[Doc]) -> "Tokens":
        """Of these documents."""
        attrs = np.concatenate([doc.to_array([ORTH, LENGTH, SPACY]) for doc in docs])
        lengths, spaces = attrs[:, 1:].astype("int64").T
        starts = bounds(lengths + spaces)[:-1]
        spans = np.stack([starts, starts + lengths], axis=1)
        return cls(attrs[:, 0], spaces.astype(bool), spans, bounds([len(doc) for doc in docs]))


def align(token_spans: np.ndarray, piece_spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair tokens with the pieces whose characters overlap theirs.

    token_spans (int, Shape (n_tokens, 2)): start and end character of each token, in order, disjoint.
    piece_spans (int, Shape (n_pieces, 2)): the same for each piece; an empty span overlaps nothing.
    RETURNS: two int32 arrays of equal length, token index and piece index of each pair, sorted by token, then piece.
    """
    starts, ends = piece_spans[:, 0], piece_spans[:, 1]
    first = np.searchsorted(token_spans[:, 1], starts, side="right")
    last = np.searchsorted(token_spans[:, 0], ends, side="left")
    counts = np.where(ends > starts, np.maximum(last - first, 0), 0)
    pieces = np.repeat(np.arange(len(starts)), counts)
    tokens = np.repeat(first, counts) + counted(counts)
    order = np.argsort(tokens, kind="stable")
    return tokens[order].astype(np.int32), pieces[order].astype(np.int32)


def counted(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... within each run: [2, 3] -> [0, 1, 0, 1, 2]."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def entries(pieces: Pieces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The entries of A for one document: token indices, piece indices (int64), weights (float32)."""
    n_pieces = len(pieces.ids)
    shared_by = np.bincount(pieces.aligned_pieces, minlength=n_pieces)
    weights = 1.0 / shared_by[pieces.aligned_pieces]

    # Pieces without a token of their own are shared out over their sentence.
    sentence_of = np.repeat(np.arange(len(pieces.sentence_pieces)), pieces.sentence_pieces)
    loose = np.flatnonzero(shared_by == 0)
    n_tokens = pieces.kept_tokens[sentence_of[loose]]
    token_starts = np.cumsum(pieces.sentence_tokens) - pieces.sentence_tokens
    loose_tokens = np.repeat(token_starts[sentence_of[loose]], n_tokens) + counted(n_tokens)

    tokens = np.concatenate([pieces.aligned_tokens, loose_tokens]).astype(np.int64)
    columns = np.concatenate([pieces.aligned_pieces, np.repeat(loose, n_tokens)]).astype(np.int64)
    shares = np.repeat(1.0 / np.maximum(n_tokens, 1), n_tokens)
    return tokens, columns, np.concatenate([weights, shares]).astype(np.float32)


def pieces_of_tokens(pieces: Pieces, start: int, end: int) -> list[list[int]]:
    """For each of the tokens from start to end the list of its pieces; empty where its characters were dropped."""
    ends = np.searchsorted(pieces.aligned_tokens, np.arange(start, end + 1))
    return [pieces.aligned_pieces[a:b].tolist() for a, b in pairwise(ends)]


def add_tensor_gradient(doc: Doc, d_tensor: Any) -> None:
    """The backward pass of `doc.tensor`: add `A.T @ d_tensor` to `doc._.trf_d_last_hidden_state`.

    d_tensor: array (n_tokens, width).
    """
    tokens, columns, weights = entries(Pieces.of(doc))
    xp = get_array_module(d_tensor)
    gradient = doc._.trf_d_last_hidden_state
    xp.add.at(gradient, xp.asarray(columns), d_tensor[xp.asarray(tokens)] * xp.asarray(weights)[:, None])
    doc._.trf_d_last_hidden_state = gradient


def token_attention(doc: Doc) -> list[np.ndarray]:
    """Attention between spaCy's tokens, so that models with different pieces can be compared over the same words.

    Where a token looks is the mean over its pieces (over the boundary pieces, where it has none); what a piece is
    given goes to its tokens, in the shares of `doc.tensor`; a token that two windows see has the mean of the two.
    Each row sums to one.

    RETURNS: for each sentence an array (n_layers, n_heads, n_tokens, n_tokens).
    Raises ValueError where `trf_tok2vec` was not configured with `attentions: true`.
    """
    attentions = doc._.trf_all_attentions
    if attentions is None:
        raise ValueError("this Doc has no attentions: configure 'trf_tok2vec' with attentions: true")
    pieces = Pieces.of(doc)
    tokens, columns, weights = entries(pieces)
    shares = np.zeros((pieces.n_tokens, len(pieces.ids)), "float32")
    shares[tokens, columns] = weights
    aligned = np.zeros_like(shares)
    aligned[pieces.aligned_tokens, pieces.aligned_pieces] = 1
    ends = np.cumsum(pieces.sentence_tokens)
    sums = [np.zeros((*attentions[0].shape[:2], n, n), "float32") for n in pieces.sentence_tokens] if attentions else []
    seen = [np.zeros((n, 1), "float32") for n in pieces.sentence_tokens]
    rows = np.split(pieces.window_pieces, np.cumsum(pieces.window_lengths)[:-1])
    for matrix, window, sentence in zip(attentions, rows, pieces.window_sentence, strict=True):
        end = ends[sentence]
        here = slice(end - pieces.sentence_tokens[sentence], end)
        share, own = shares[here, window], aligned[here, window]
        dropped = ~aligned[here].any(axis=1, keepdims=True)
        own = np.where(dropped, share, own)
        own /= np.maximum(own.sum(axis=1, keepdims=True), 1e-12)
        looks = own @ to_numpy(matrix) @ share.T
        sums[sentence] += looks / np.maximum(looks.sum(axis=-1, keepdims=True), 1e-12)
        seen[sentence] += own.any(axis=1, keepdims=True)
    return [total / np.maximum(count, 1) for total, count in zip(sums, seen, strict=True)]
