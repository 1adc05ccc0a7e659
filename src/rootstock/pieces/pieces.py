"""The wordpieces of a document, as compact arrays in `doc.user_data`, which DocBin serializes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from spacy.tokens import Doc

PIECES = "trf_pieces"  # key in doc.user_data


@dataclass(eq=False)
class Pieces:
    """The pieces of a document in order, boundary pieces included.

    A sentence is one window, that is one input of the model. A sentence longer than the model's maximum length is
    split into overlapping windows; a piece that occurs in two windows is stored once. All arrays are int32.
    """

    ids: np.ndarray  # (n_pieces,) id in the tokenizer's vocabulary
    types: np.ndarray  # (n_pieces,) token type: 0 or 1 for the texts of a pair, if the model distinguishes them
    sentence_pieces: np.ndarray  # (n_sentences,) pieces of each sentence
    sentence_tokens: np.ndarray  # (n_sentences,) spaCy tokens of each sentence
    kept_tokens: np.ndarray  # (n_sentences,) how many of these remain after truncation
    aligned_tokens: np.ndarray  # (n_pairs,) token of each aligned pair, ascending
    aligned_pieces: np.ndarray  # (n_pairs,) its piece
    window_sentence: np.ndarray  # (n_windows,) the sentence that each window belongs to
    window_lengths: np.ndarray  # (n_windows,) pieces in each window
    window_class: np.ndarray  # (n_windows,) the window's class piece
    window_pieces: np.ndarray  # (n_rows,) piece at each position of each window, window after window

    @property
    def n_tokens(self) -> int:
        """Number of spaCy tokens in the document."""
        return int(self.sentence_tokens.sum())

    @property
    def n_sentences(self) -> int:
        """Number of sentences, or of the other spans that `trf_wordpiecer` was configured with."""
        return len(self.sentence_pieces)

    def store(self, doc: Doc) -> None:
        """Store the arrays in `doc.user_data`."""
        doc.user_data[PIECES] = dict(vars(self))

    @classmethod
    def of(cls, doc: Doc) -> "Pieces":
        """The pieces of a document.

        Raises ValueError if it has none yet.
        """
        if PIECES not in doc.user_data:
            raise ValueError(
                "this Doc has no wordpieces yet: add 'trf_wordpiecer' to the pipeline before this component"
            )
        return cls(**doc.user_data[PIECES])

    @classmethod
    def join(cls, documents: Sequence["Pieces"]) -> tuple["Pieces", "Bounds"]:
        """Concatenate documents, with their indices shifted.

        RETURNS: the joined pieces (int64), and the bounds of each document.
        """
        columns = {name: [getattr(pieces, name) for pieces in documents] for name in ENTRY_UNITS}
        joined = {name: np.concatenate([*arrays, np.zeros(0, "int64")]) for name, arrays in columns.items()}
        ends = {unit: bounds([len(x) for x in columns[name]]) for name, unit in ENTRY_UNITS.items()}
        doc_bounds = Bounds(tokens=bounds(joined["sentence_tokens"])[ends["sentences"]], **ends)
        for name in INDEX_UNITS:
            joined[name] += doc_bounds.offsets(name)
        return cls(**joined), doc_bounds

    def split(self, doc_bounds: "Bounds") -> Iterator["Pieces"]:
        """The inverse of `join`: the pieces (int32) of each document."""
        columns = []
        for name, unit in ENTRY_UNITS.items():
            values = getattr(self, name)
            values = (values - doc_bounds.offsets(name) if name in INDEX_UNITS else values).astype("int32")
            columns.append([values[start:end] for start, end in pairwise(getattr(doc_bounds, unit).tolist())])
        return map(Pieces, *columns)


# For each field, in order: what it has one entry for.
ENTRY_UNITS = {
    "ids": "pieces",
    "types": "pieces",
    "sentence_pieces": "sentences",
    "sentence_tokens": "sentences",
    "kept_tokens": "sentences",
    "aligned_tokens": "pairs",
    "aligned_pieces": "pairs",
    "window_sentence": "windows",
    "window_lengths": "windows",
    "window_class": "windows",
    "window_pieces": "rows",
}
# For each field whose values are indices: what they index.
INDEX_UNITS = {
    "aligned_tokens": "tokens",
    "aligned_pieces": "pieces",
    "window_sentence": "sentences",
    "window_class": "pieces",
    "window_pieces": "pieces",
}


class Bounds(NamedTuple):
    """Arrays (n_docs + 1,): the index at which each document begins, and the end of the last."""

    pieces: np.ndarray
    tokens: np.ndarray
    sentences: np.ndarray
    pairs: np.ndarray  # aligned pairs of token and piece
    windows: np.ndarray
    rows: np.ndarray  # positions of all windows

    def offsets(self, name: str) -> np.ndarray:
        """For each entry of an index field, what `join` adds to it: the index at which its document begins."""
        return np.repeat(getattr(self, INDEX_UNITS[name])[:-1], np.diff(getattr(self, ENTRY_UNITS[name])))


def bounds(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Start of each part, and the end of the last, from the parts' lengths: [2, 3] -> [0, 2, 5]."""
    return np.concatenate([[0], np.cumsum(counts)]).astype("int64")
