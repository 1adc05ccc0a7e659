"""Cached tokenization of chunks, the texts between two spaces: words repeat, so each chunk is tokenized once.

spaCy's tokenizer caches in the same way. The result is exact if the wordpiece tokenizer never looks across a space.
The cache key is the chunk's spaCy tokens, so the string is built for new chunks only. A token is to spaCy the 64-bit
hash of its text: two words with one hash would be one word here, as they are in spaCy itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, pairwise
from typing import TYPE_CHECKING, cast

import numpy as np
from spacy.tokens import Doc

from .alignment import Tokens, concat_ranges
from .pieces import bounds
from .windows import TokenizedTexts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Tokenizer components that never look across a space. BERT's change one character at a time (or one with its
# combining marks), end a word at each space, and split each word on its own.
EXACT_COMPONENTS = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer", "model": "WordPiece"}

MAX_CACHED_CHUNKS = 2**17  # before a batch is added; the cache is cleared if it holds more
MAX_CACHED_LENGTH = 64  # characters of a cached chunk: longer ones hardly ever repeat
CHUNKS_PER_TEXT = 64  # new chunks tokenized as one text, because a text costs the tokenizer more than a word
PIECE_BYTES = 12  # int32 id, start and end
Key = int | bytes  # a chunk's only token, or all of them: 8 bytes each


class CachedTokenizer:
    """Replaces `encode_batch` of a fast tokenizer, without boundary pieces.

    After a change of the tokenizer make a new one: cached results would be stale.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.cache: dict[Key, bytes] = {}

    @staticmethod
    def is_exact(tokenizer: Tokenizer) -> bool:
        """Whether chunks can be tokenized on their own with the same result."""
        added = tokenizer.get_added_tokens_decoder().values()
        crosses_spaces = any(token.lstrip or token.rstrip or any(map(str.isspace, token.content)) for token in added)
        components = {part: type(getattr(tokenizer, part)).__name__ for part in EXACT_COMPONENTS}
        return not crosses_spaces and components == EXACT_COMPONENTS

    def encode(self, docs: Sequence[Doc], tokens: Tokens, ends: np.ndarray) -> TokenizedTexts:
        """Tokenize texts; spans are characters in the concatenated documents.

        tokens: those of the documents.
        ends (int, Shape (n_texts,)): the token at which each text ends, and the next begins.
        """
        ends_chunk = tokens.spaces.copy()
        ends_chunk[ends[ends > 0] - 1] = True
        stops = np.flatnonzero(ends_chunk) + 1
        starts = np.concatenate([[0], stops])[:-1]
        keys = _chunk_keys(tokens.hashes, starts, stops)
        try:
            cached: list[bytes | None] = list(map(self.cache.__getitem__, keys))
        except KeyError:
            cached = list(map(self.cache.get, keys))
            missing = [i for i, pieces in enumerate(cached) if pieces is None]
            first = {keys[i]: i for i in reversed(missing)}
            chunks = _chunk_texts(docs, tokens, *(x[list(first.values())] for x in (starts, stops)))
            new = self._tokenize(list(first), chunks)
            for i in missing:
                cached[i] = new[keys[i]]
        chunk_pieces = cast("list[bytes]", cached)
        pieces = np.frombuffer(b"".join(chunk_pieces), "int32").reshape(-1, 3)
        n_pieces = np.fromiter(map(len, chunk_pieces), "int64", len(chunk_pieces)) // PIECE_BYTES
        spans = pieces[:, 1:] + np.repeat(tokens.spans[starts, 0], n_pieces)[:, None]
        lengths = np.diff(bounds(n_pieces)[bounds(ends_chunk)[ends]], prepend=0)
        return TokenizedTexts(pieces[:, 0], spans, lengths)

    def _tokenize(self, keys: list[Key], chunks: list[str]) -> dict[Key, bytes]:
        """Tokenize new chunks and cache them."""
        firsts = range(0, len(chunks), CHUNKS_PER_TEXT)
        texts = [" ".join(chunks[first : first + CHUNKS_PER_TEXT]) for first in firsts]
        encoded = self.tokenizer.encode_batch(texts, add_special_tokens=False)
        lengths = [len(encoding.ids) for encoding in encoded]
        chunk_starts = bounds([len(chunk) + 1 for chunk in chunks])
        pieces = np.empty((sum(lengths), 3), "int32")
        pieces[:, 0] = np.fromiter(chain.from_iterable(encoding.ids for encoding in encoded), "int32")
        spans = np.fromiter(chain.from_iterable(chain.from_iterable(e.offsets for e in encoded)), "int64")
        pieces[:, 1:] = spans.reshape(-1, 2) + np.repeat(chunk_starts[firsts], lengths)[:, None]
        ends = np.searchsorted(pieces[:, 1], chunk_starts)
        pieces[:, 1:] -= np.repeat(chunk_starts[:-1], np.diff(ends))[:, None]
        data = pieces.tobytes()
        new = {key: data[a:b] for key, (a, b) in zip(keys, pairwise((ends * PIECE_BYTES).tolist()), strict=True)}
        if len(self.cache) > MAX_CACHED_CHUNKS:
            self.cache.clear()
        short = (key for key, chunk in zip(keys, chunks, strict=True) if len(chunk) <= MAX_CACHED_LENGTH)
        self.cache.update({key: new[key] for key in short})
        return new


def _chunk_keys(hashes: np.ndarray, starts: np.ndarray, stops: np.ndarray) -> list[Key]:
    """The tokens of each chunk, all of them: no text can be made to have the key of another."""
    keys: list[Key] = hashes[starts].tolist()
    several = np.flatnonzero(stops - starts > 1)
    first_bytes, last_bytes = starts[several] * hashes.itemsize, stops[several] * hashes.itemsize
    data = hashes.tobytes()
    for i, first, last in zip(several.tolist(), first_bytes.tolist(), last_bytes.tolist(), strict=True):
        keys[i] = data[first:last]
    return keys


def _chunk_texts(docs: Sequence[Doc], tokens: Tokens, starts: np.ndarray, stops: np.ndarray) -> list[str]:
    """The text of each chunk, given its first token and its end."""
    lengths = stops - starts
    indices = np.repeat(starts, lengths) + concat_ranges(lengths)
    doc_of = np.searchsorted(tokens.doc_bounds, indices, side="right") - 1
    words = [docs[i].vocab.strings[h] for i, h in zip(doc_of.tolist(), tokens.hashes[indices].tolist(), strict=True)]
    return ["".join(words[start:end]) for start, end in pairwise(bounds(lengths).tolist())]
