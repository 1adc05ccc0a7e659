"""The wordpieces of one document, as compact arrays that travel through DocBin in `doc.user_data`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from spacy.tokens import Doc

KEY = "trf_pieces"


@dataclass(eq=False)
class Pieces:
    """One entry per piece of the document, boundary pieces included; sentence after sentence.

    A sentence is one window: one input of the model. One that is longer than the model takes is cut into windows
    that overlap; a piece that two windows see stands here once. All arrays are int32.
    """

    ids: np.ndarray  # (n_pieces,) id in the tokenizer's vocabulary
    types: np.ndarray  # (n_pieces,) token type: 0 or 1 for the texts of a pair, where the model tells them apart
    sentence_pieces: np.ndarray  # (n_sentences,) pieces of each sentence
    sentence_tokens: np.ndarray  # (n_sentences,) spaCy tokens of each sentence
    kept_tokens: np.ndarray  # (n_sentences,) of these, how many came before the cut of `truncate`
    aligned_tokens: np.ndarray  # (n_pairs,) token of each aligned pair, ascending
    aligned_pieces: np.ndarray  # (n_pairs,) its piece
    window_sentence: np.ndarray  # (n_windows,) the sentence that each window belongs to
    window_lengths: np.ndarray  # (n_windows,) pieces that each window shows to the model
    window_class: np.ndarray  # (n_windows,) the piece that speaks for the window
    window_pieces: np.ndarray  # (n_rows,) piece at each position of each window

    @property
    def n_tokens(self) -> int:
        """spaCy tokens of the document."""
        return int(self.sentence_tokens.sum())

    @property
    def n_sentences(self) -> int:
        """Sentences, or what else `trf_wordpiecer` was configured to cut."""
        return len(self.sentence_pieces)

    def store(self, doc: Doc) -> None:
        """Put the arrays into `doc.user_data`."""
        doc.user_data[KEY] = dict(vars(self))

    @classmethod
    def of(cls, doc: Doc) -> "Pieces":
        """Raises ValueError where the document has none yet."""
        if KEY not in doc.user_data:
            raise ValueError(
                "this Doc has no wordpieces yet: add 'trf_wordpiecer' to the pipeline before this component"
            )
        return cls(**doc.user_data[KEY])

    @classmethod
    def join(cls, documents: Sequence["Pieces"]) -> tuple["Pieces", "Bounds"]:
        """Those of many documents (int64) as if each were the next part of one, and where each begins and ends."""
        columns = {name: [getattr(one, name) for one in documents] for name in PARTS}
        joined = {name: np.concatenate([*arrays, np.zeros(0, "int64")]) for name, arrays in columns.items()}
        ends = {of: bounds([len(x) for x in columns[name]]) for name, of in PARTS.items()}
        at = Bounds(tokens=bounds(joined["sentence_tokens"])[ends["sentences"]], **ends)
        for name in INDICES:
            joined[name] += at.first(name)
        return cls(**joined), at

    def split(self, at: "Bounds") -> Iterator["Pieces"]:
        """For each document its own, as they were before `join`."""
        columns = []
        for name, of in PARTS.items():
            values = getattr(self, name)
            values = (values - at.first(name) if name in INDICES else values).astype("int32")
            columns.append([values[start:end] for start, end in pairwise(getattr(at, of).tolist())])
        return map(Pieces, *columns)


# Of what a column has an entry each, in the order of the fields; and of what its entries are indices.
PARTS = {
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
INDICES = {
    "aligned_tokens": "tokens",
    "aligned_pieces": "pieces",
    "window_sentence": "sentences",
    "window_class": "pieces",
    "window_pieces": "pieces",
}


class Bounds(NamedTuple):
    """Where each document begins, and the last one ends: arrays (n_docs + 1,)."""

    pieces: np.ndarray
    tokens: np.ndarray
    sentences: np.ndarray
    pairs: np.ndarray  # of a token and a piece that are aligned
    windows: np.ndarray
    rows: np.ndarray  # positions in all windows

    def first(self, name: str) -> np.ndarray:
        """For each entry of a column the index at which its document begins."""
        return np.repeat(getattr(self, INDICES[name])[:-1], np.diff(getattr(self, PARTS[name])))


def bounds(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """[2, 3] -> [0, 2, 5]."""
    return np.concatenate([[0], np.cumsum(counts)]).astype("int64")
