"""Pieces of what stands between two spaces, remembered: texts repeat their words, and these are cut once.

spaCy's tokenizer does the same. It is exact where a tokenizer never looks past a space.
"""

from __future__ import annotations

import json
from array import array
from itertools import chain
from typing import TYPE_CHECKING, cast

import numpy as np

from .windows import Texts

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

# Parts of a tokenizer that never look past a space: BERT's changes a character at a time, or one with the marks that
# combine with it, and ends a word at each space.
BLIND = {"normalizer": {"BertNormalizer"}, "pre_tokenizer": {"BertPreTokenizer"}}

MOST = 2**17  # chunks that are remembered; then all are forgotten, so that memory does not grow with the corpus
PIECE = 12  # bytes: its id, and where it starts and ends
LONG = 64  # characters of a chunk that is not remembered: it will not come again


class Chunks:
    """In place of a fast tokenizer's `encode_batch`, without boundary pieces."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.known: dict[str, bytes] = {}

    @staticmethod
    def are_exact(tokenizer: Tokenizer) -> bool:
        """Whether what stands between spaces can be cut alone."""
        settings = json.loads(tokenizer.to_str())
        seeing = any(" " in one["content"] or one["lstrip"] or one["rstrip"] for one in settings["added_tokens"])
        return not seeing and all((settings[part] or {}).get("type") in types for part, types in BLIND.items())

    def encode(self, texts: list[str]) -> Texts:
        """The pieces of each text, and where they stand in it."""
        chunks = " ".join(texts).split(" ") if texts else []
        found = list(map(self.known.get, chunks))
        if None in found:
            new = self._cut(list(dict.fromkeys(c for c, pieces in zip(chunks, found, strict=True) if pieces is None)))
            found = [new[c] if pieces is None else pieces for c, pieces in zip(chunks, found, strict=True)]
        known = cast("list[bytes]", found)
        pieces = np.frombuffer(b"".join(known), "int32").reshape(-1, 3)
        sizes = np.fromiter(map(len, known), "int64", len(known)) // PIECE
        counts = np.array([text.count(" ") + 1 for text in texts], "int64")
        first = np.cumsum(counts) - counts
        ends = np.cumsum(np.fromiter(map(len, chunks), "int64", len(chunks)) + 1)
        starts = np.concatenate([[0], ends])[:-1]
        starts = starts - np.repeat(starts[first], counts)
        return Texts(pieces[:, 0], pieces[:, 1:] + np.repeat(starts, sizes)[:, None], np.add.reduceat(sizes, first))

    def _cut(self, chunks: list[str]) -> dict[str, bytes]:
        """New ones, by the tokenizer itself."""
        encoded = self.tokenizer.encode_batch(chunks, add_special_tokens=False)
        new = {chunk: _packed(one) for chunk, one in zip(chunks, encoded, strict=True)}
        if len(self.known) > MOST:
            self.known.clear()
        self.known.update((chunk, pieces) for chunk, pieces in new.items() if len(chunk) <= LONG)
        return new


def _packed(one: Encoding) -> bytes:
    rows = [(piece, *span) for piece, span in zip(one.ids, one.offsets, strict=True)]
    return array("i", chain.from_iterable(rows)).tobytes()
