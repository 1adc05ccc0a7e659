"""Pieces of what stands between two spaces, remembered: texts repeat their words, and these are cut once.

spaCy's tokenizer does the same. It is exact where a tokenizer never looks past a space. A chunk is known by its tokens:
only a new one is written out.
"""

from __future__ import annotations

from itertools import chain, pairwise
from typing import TYPE_CHECKING, cast

import numpy as np
from spacy.tokens import Doc

from .alignment import Tokens, counted
from .pieces import bounds
from .windows import Texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Parts of a tokenizer that never look past a space: BERT's changes a character at a time, or one with the marks that
# combine with it, ends a word at each space, and cuts each word alone.
BLIND = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer", "model": "WordPiece"}

MOST = 2**17  # chunks that are remembered; those of a batch come on top, then all are forgotten
LONG = 64  # characters of the longest that is remembered: others will not come again
TOGETHER = 64  # new ones that the tokenizer cuts as one text: a text costs it more than a word
PIECE = 12  # bytes: its id, and where it starts and ends
FACTOR = 0x9E3779B97F4A7C15  # of the tokens' hashes, for each place in a chunk: odd, so that no bit is lost


class Chunks:
    """In place of a fast tokenizer's `encode_batch`, without boundary pieces. It must not change any more."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.known: dict[int, bytes] = {}

    @staticmethod
    def are_exact(tokenizer: Tokenizer) -> bool:
        """Whether what stands between spaces can be cut alone."""
        added = tokenizer.get_added_tokens_decoder().values()
        seeing = any(one.lstrip or one.rstrip or any(map(str.isspace, one.content)) for one in added)
        return not seeing and all(type(getattr(tokenizer, part)).__name__ == name for part, name in BLIND.items())

    def encode(self, docs: list[Doc], tokens: Tokens, ends: np.ndarray) -> Texts:
        """The pieces of texts, and where they stand among the characters of all documents.

        tokens: of the documents.
        ends (int, Shape (n_texts,)): the token at which each text ends, and the next begins.
        """
        closing = tokens.spaces.copy()
        closing[ends[ends > 0] - 1] = True
        stops = np.flatnonzero(closing) + 1
        starts = np.concatenate([[0], stops])[:-1]
        keys = _keys(tokens.hashes, starts, stops)
        found = list(map(self.known.get, keys))
        if None in found:
            missing = [i for i, pieces in enumerate(found) if pieces is None]
            first = {keys[i]: i for i in reversed(missing)}
            new = self._cut(list(first), _texts(docs, tokens, *(x[list(first.values())] for x in (starts, stops))))
            for i in missing:
                found[i] = new[keys[i]]
        known = cast("list[bytes]", found)
        pieces = np.frombuffer(b"".join(known), "int32").reshape(-1, 3)
        sizes = np.fromiter(map(len, known), "int64", len(known)) // PIECE
        places = pieces[:, 1:] + np.repeat(tokens.spans[starts, 0], sizes)[:, None]
        return Texts(pieces[:, 0], places, np.diff(bounds(sizes)[bounds(closing)[ends]], prepend=0))

    def _cut(self, keys: list[int], chunks: list[str]) -> dict[int, bytes]:
        """New ones, by the tokenizer itself."""
        firsts = range(0, len(chunks), TOGETHER)
        texts = [" ".join(chunks[first : first + TOGETHER]) for first in firsts]
        encoded = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        lengths = [len(one.ids) for one in encoded]
        places = bounds([len(chunk) + 1 for chunk in chunks])
        pieces = np.empty((sum(lengths), 3), "int32")
        pieces[:, 0] = np.fromiter(chain.from_iterable(one.ids for one in encoded), "int32")
        spans = chain.from_iterable(chain.from_iterable(one.offsets for one in encoded))
        pieces[:, 1:] = np.fromiter(spans, "int64").reshape(-1, 2) + np.repeat(places[firsts], lengths)[:, None]
        ends = np.searchsorted(pieces[:, 1], places)
        pieces[:, 1:] -= np.repeat(places[:-1], np.diff(ends))[:, None]
        packed = pieces.tobytes()
        new = {key: packed[a:b] for key, (a, b) in zip(keys, pairwise((ends * PIECE).tolist()), strict=True)}
        if len(self.known) > MOST:
            self.known.clear()
        self.known.update({key: new[key] for key, chunk in zip(keys, chunks, strict=True) if len(chunk) <= LONG})
        return new


def _keys(hashes: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> list[int]:
    """A hash of each chunk's tokens, of 64 bits as spaCy's own."""
    if not len(starts):
        return []
    places = counted(stops - starts)
    factors = np.cumprod(np.full(places.max() + 1, FACTOR, "uint64"))
    return np.add.reduceat(hashes * factors[places], starts).tolist()


def _texts(docs: list[Doc], tokens: Tokens, starts: np.ndarray, stops: np.ndarray) -> list[str]:
    """What is written between these tokens."""
    lengths = stops - starts
    places = np.repeat(starts, lengths) + counted(lengths)
    of = np.searchsorted(tokens.docs, places, side="right") - 1
    words = [docs[i].vocab.strings[h] for i, h in zip(of.tolist(), tokens.hashes[places].tolist(), strict=True)]
    return ["".join(words[start:end]) for start, end in pairwise(bounds(lengths).tolist())]
