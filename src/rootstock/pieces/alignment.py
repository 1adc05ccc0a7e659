"""Alignment between wordpieces and spaCy tokens.

`doc.tensor` is `A @ H`. H has a row per piece. A (n_tokens x n_pieces) is sparse and its columns sum to one, so sums
are preserved: `(A @ H).sum(0) == H.sum(0)`. A piece aligned with k tokens contributes 1/k of its row to each of them.
A piece aligned with none (a boundary piece, or white space) contributes 1/n to each of the n tokens of its sentence.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from spacy.tokens import Doc
from thinc.api import get_array_module, to_numpy

from .pieces import TOKEN_ATTRS, Pieces, bounds, digest


class Tokens(NamedTuple):
    """The spaCy tokens of many documents, concatenated."""

    hashes: np.ndarray  # uint64 (n_tokens,) ORTH: the hash of each token's text
    spaces: np.ndarray  # bool (n_tokens,) whether a space follows
    spans: np.ndarray  # (n_tokens, 2) start and end character in the concatenated documents
    doc_bounds: np.ndarray  # (n_docs + 1,) the first token of each document, and the end of the last
    digests: list[bytes]  # `digest_tokens` of each document

    @classmethod
    def of(cls, docs: Sequence[Doc]) -> "Tokens":
        """Collect the tokens of these documents."""
        arrays = [doc.to_array(TOKEN_ATTRS) for doc in docs]
        attrs = np.concatenate(arrays)
        lengths, spaces = attrs[:, 1:].astype("int64").T
        starts = bounds(lengths + spaces)[:-1]
        spans = np.stack([starts, starts + lengths], axis=1)
        return cls(
            attrs[:, 0], spaces.astype(bool), spans, bounds([len(doc) for doc in docs]), list(map(digest, arrays))
        )


def align(token_spans: np.ndarray, piece_spans: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair each token with the pieces whose characters overlap its own.

    token_spans (int, Shape (n_tokens, 2)): start and end character of each token, in order, disjoint.
    piece_spans (int, Shape (n_pieces, 2)): the same for each piece; an empty span overlaps nothing.
    RETURNS: two int32 arrays of equal length: token index and piece index of each pair, sorted by token, then piece.
    """
    starts, ends = piece_spans[:, 0], piece_spans[:, 1]
    first = np.searchsorted(token_spans[:, 1], starts, side="right")
    last = np.searchsorted(token_spans[:, 0], ends, side="left")
    counts = np.where(ends > starts, np.maximum(last - first, 0), 0)
    pieces = np.repeat(np.arange(len(starts)), counts)
    tokens = np.repeat(first, counts) + concat_ranges(counts)
    order = np.argsort(tokens, kind="stable")
    return tokens[order].astype(np.int32), pieces[order].astype(np.int32)


def concat_ranges(lengths: np.ndarray) -> np.ndarray:
    """Concatenate `arange(n)` for each length n: [2, 3] -> [0, 1, 0, 1, 2]."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


class Factors(NamedTuple):
    """A in two parts. Their size grows with the document's length; the number of A's entries may grow with its square.

    Aligned pieces: an entry of A for each pair of a token and a piece. Unaligned pieces: all tokens that a sentence
    keeps have the same entries, so the sum of these pieces is enough.
    """

    weights: np.ndarray  # float32 (n_pairs,) the weight of each pair in aligned_tokens and aligned_pieces
    unaligned: np.ndarray  # int64, the pieces without a token
    sentences: np.ndarray  # int64, the sentence of each of these
    token_sentences: np.ndarray  # int64 (n_tokens,) the sentence of each token
    token_shares: np.ndarray  # float32 (n_tokens,) 1/n if it is among the n tokens that truncation keeps, else 0

    @classmethod
    def of(cls, pieces: Pieces) -> "Factors":
        """Compute them for one document, or for several that are joined."""
        tokens_per_piece = np.bincount(pieces.aligned_pieces, minlength=len(pieces.ids))
        unaligned = np.flatnonzero(tokens_per_piece == 0)
        numbers = np.arange(len(pieces.sentence_pieces))
        token_sentences = np.repeat(numbers, pieces.sentence_tokens)
        kept = pieces.kept_tokens[token_sentences]
        return cls(
            (1.0 / tokens_per_piece[pieces.aligned_pieces]).astype(np.float32),
            unaligned,
            np.repeat(numbers, pieces.sentence_pieces)[unaligned],
            token_sentences,
            ((concat_ranges(pieces.sentence_tokens) < kept) / np.maximum(kept, 1)).astype(np.float32),
        )


def alignment_entries(pieces: Pieces) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nonzero entries of the alignment matrix A of one document.

    RETURNS: three arrays of equal length: token indices (int64), piece indices (int64), weights (float32).
    """
    factors = Factors.of(pieces)
    n_tokens = pieces.kept_tokens[factors.sentences]
    token_starts = np.cumsum(pieces.sentence_tokens) - pieces.sentence_tokens
    unaligned_tokens = np.repeat(token_starts[factors.sentences], n_tokens) + concat_ranges(n_tokens)
    tokens = np.concatenate([pieces.aligned_tokens, unaligned_tokens]).astype(np.int64)
    columns = np.concatenate([pieces.aligned_pieces, np.repeat(factors.unaligned, n_tokens)]).astype(np.int64)
    return tokens, columns, np.concatenate([factors.weights, factors.token_shares[unaligned_tokens]])


def pieces_of_tokens(pieces: Pieces, start: int, end: int) -> list[list[int]]:
    """For each token from start to end the indices of its pieces; empty if the tokenizer dropped its characters."""
    ends = np.searchsorted(pieces.aligned_tokens, np.arange(start, end + 1))
    return [pieces.aligned_pieces[a:b].tolist() for a, b in pairwise(ends)]


def add_tensor_gradient(doc: Doc, d_tensor: Any) -> None:
    """The backward pass of `doc.tensor`: add `A.T @ d_tensor` to `doc._.trf_d_last_hidden_state`.

    d_tensor: array (n_tokens, width).
    """
    pieces = Pieces.of(doc)
    factors = Factors.of(pieces)
    xp = get_array_module(d_tensor)
    gradient = doc._.trf_d_last_hidden_state
    d_pairs = d_tensor[xp.asarray(pieces.aligned_tokens)] * xp.asarray(factors.weights)[:, None]
    xp.add.at(gradient, xp.asarray(pieces.aligned_pieces), d_pairs)
    d_sentences = xp.zeros((len(pieces.sentence_tokens), d_tensor.shape[1]), d_tensor.dtype)
    d_tokens = d_tensor * xp.asarray(factors.token_shares)[:, None]
    xp.add.at(d_sentences, xp.asarray(factors.token_sentences), d_tokens)
    gradient[xp.asarray(factors.unaligned)] += d_sentences[xp.asarray(factors.sentences)]
    doc._.trf_d_last_hidden_state = gradient


def token_attention(doc: Doc) -> list[np.ndarray]:
    """Attention between spaCy tokens: it makes models with different pieces comparable.

    The row of a token is the mean over its pieces, or over the unaligned pieces of its sentence if it has none. The
    attention to a piece is distributed over its tokens with the weights of `doc.tensor`. A token in two windows gets
    the mean of both. Each row sums to one.

    RETURNS: for each sentence an array (n_layers, n_heads, n_tokens, n_tokens).
    Raises ValueError if `trf_tok2vec` was not configured with `attentions: true`.
    """
    attentions = doc._.trf_all_attentions
    if attentions is None:
        raise ValueError("this Doc has no attentions: configure 'trf_tok2vec' with attentions: true")
    pieces = Pieces.of(doc)
    tokens, columns, weights = alignment_entries(pieces)
    key_weights = np.zeros((pieces.n_tokens, len(pieces.ids)), "float32")
    key_weights[tokens, columns] = weights
    aligned = np.zeros_like(key_weights)
    aligned[pieces.aligned_tokens, pieces.aligned_pieces] = 1
    ends = np.cumsum(pieces.sentence_tokens)
    sums = [np.zeros((*attentions[0].shape[:2], n, n), "float32") for n in pieces.sentence_tokens] if attentions else []
    n_windows = [np.zeros((n, 1), "float32") for n in pieces.sentence_tokens]
    windows = np.split(pieces.window_pieces, np.cumsum(pieces.window_lengths)[:-1])
    for matrix, window, sentence in zip(attentions, windows, pieces.window_sentence, strict=True):
        end = ends[sentence]
        sent_tokens = slice(end - pieces.sentence_tokens[sentence], end)
        keys, queries = key_weights[sent_tokens, window], aligned[sent_tokens, window]
        without_pieces = ~aligned[sent_tokens].any(axis=1, keepdims=True)
        queries = np.where(without_pieces, keys, queries)
        queries /= np.maximum(queries.sum(axis=1, keepdims=True), 1e-12)
        attention = queries @ to_numpy(matrix) @ keys.T
        sums[sentence] += attention / np.maximum(attention.sum(axis=-1, keepdims=True), 1e-12)
        n_windows[sentence] += queries.any(axis=1, keepdims=True)
    return [total / np.maximum(n, 1) for total, n in zip(sums, n_windows, strict=True)]
