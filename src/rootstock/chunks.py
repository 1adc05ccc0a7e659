"""Pieces of what stands between two spaces, remembered: texts repeat their words, and these are cut once.

spaCy's tokenizer does the same. It is exact where a tokenizer never looks past a space.
"""

from __future__ import annotations

from itertools import chain, pairwise
from typing import TYPE_CHECKING, cast

import numpy as np

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


class Chunks:
    """In place of a fast tokenizer's `encode_batch`, without boundary pieces. It must not change any more."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, bytes] = {}

    @staticmethod
    def are_exact(tokenizer: Tokenizer) -> bool:
        """Whether what stands between spaces can be cut alone."""
        added = tokenizer.get_added_tokens_decoder().values()
        seeing = any(one.lstrip or one.rstrip or any(map(str.isspace, one.content)) for one in added)
        return not seeing and all(type(getattr(tokenizer, part)).__name__ == name for part, name in BLIND.items())

    def encode(self, texts: list[str]) -> Texts:
        """The pieces of each text, and where they stand in it."""
        chunks = " ".join(texts).split(" ") if texts else []
        found = list(map(self.known.get, chunks))
        if None in found:
            missing = [i for i, pieces in enumerate(found) if pieces is None]
            new = self._cut(list(dict.fromkeys(chunks[i] for i in missing)))
            for i in missing:
                found[i] = new[chunks[i]]
        known = cast("list[bytes]", found)
        pieces = np.frombuffer(b"".join(known), "int32").reshape(-1, 3)
        sizes = np.fromiter(map(len, known), "int64", len(known)) // PIECE
        counts = np.array([text.count(" ") + 1 for text in texts], "int64")
        first = bounds(counts)[:-1]
        starts = _bounds(chunks)[:-1]
        starts = starts - np.repeat(starts[first], counts)
        return Texts(pieces[:, 0], pieces[:, 1:] + np.repeat(starts, sizes)[:, None], np.add.reduceat(sizes, first))

    def _cut(self, chunks: list[str]) -> dict[str, bytes]:
        """New ones, by the tokenizer itself."""
        firsts = range(0, len(chunks), TOGETHER)
        texts = [" ".join(chunks[first : first + TOGETHER]) for first in firsts]
        encoded = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        lengths = [len(one.ids) for one in encoded]
        places = _bounds(chunks)
        pieces = np.empty((sum(lengths), 3), "int32")
        pieces[:, 0] = np.fromiter(chain.from_iterable(one.ids for one in encoded), "int32")
        spans = chain.from_iterable(chain.from_iterable(one.offsets for one in encoded))
        pieces[:, 1:] = np.fromiter(spans, "int64").reshape(-1, 2) + np.repeat(places[firsts], lengths)[:, None]
        ends = np.searchsorted(pieces[:, 1], places)
        pieces[:, 1:] -= np.repeat(places[:-1], np.diff(ends))[:, None]
        packed = pieces.tobytes()
        new = {c: packed[a:b] for c, (a, b) in zip(chunks, pairwise((ends * PIECE).tolist()), strict=True)}
        if len(self.known) > MOST:
            self.known.clear()
        self.known.update({chunk: pieces for chunk, pieces in new.items() if len(chunk) <= LONG})
        return new


def _bounds(chunks: list[str]) -> np.ndarray:
    """Where each begins in all of them, a space after each, and the last one ends."""
    return bounds(np.fromiter(map(len, chunks), "int64", len(chunks)) + 1)
