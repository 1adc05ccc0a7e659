"""The wordpieces of a document, as compact arrays in `doc.user_data`, which DocBin serializes."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from spacy.attrs import LENGTH, ORTH, SPACY
from spacy.tokens import Doc

PIECES = "trf_pieces"  # key in doc.user_data
TOKEN_ATTRS = [ORTH, LENGTH, SPACY]  # these determine the tokens and the text


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

    def store(self, doc: Doc, cut: str, model: str, tokens: bytes) -> None:
        """Store the arrays in `doc.user_data`, and what they were made from.

        cut: identifies the tokenizer and the settings that made them.
        model: `model_name` of the model that they are for.
        tokens: the digest of the document's tokens.
        """
        doc.user_data[PIECES] = Trusted(**vars(self), cut=cut, model=model, tokens=tokens)

    @classmethod
    def of(cls, doc: Doc, *, model: str | None = None, aligned: bool = True) -> "Pieces":
        """The pieces of a document.

        model: `model_name` of the model that reads them, if one does.
        aligned: whether the alignment with the tokens will be used.
        Raises ValueError if it has none yet, if they are damaged or for another model, or if its tokens have changed
        since.
        """
        if PIECES not in doc.user_data:
            raise ValueError(
                "this Doc has no wordpieces yet: add 'trf_wordpiecer' to the pipeline before this component"
            )
        stored = _trusted(doc)
        if stored is None:
            raise ValueError(
                "this Doc has wordpieces that are damaged or of another version: pass it through 'trf_wordpiecer' again"
            )
        if model is not None and stored["model"] != model:
            raise ValueError(
                f"this Doc has wordpieces for {stored['model']}, but the transformer is {model}: add a "
                "'trf_wordpiecer' with the same weights directly before each 'trf_tok2vec'"
            )
        if aligned and stored["tokens"] != digest_tokens(doc):
            raise ValueError(
                "this Doc has other tokens than when its wordpieces were made: merge or split tokens before "
                "'trf_wordpiecer', or pass the Doc through it and 'trf_tok2vec' again"
            )
        return cls(**{name: stored[name] for name in ENTRY_UNITS})

    @staticmethod
    def have(doc: Doc, cut: str) -> bool:
        """Whether a document has pieces that this tokenizer with these settings would make of its tokens."""
        stored = _trusted(doc) if PIECES in doc.user_data else None
        return stored is not None and stored["cut"] == cut and stored["tokens"] == digest_tokens(doc)

    def are_consistent(self) -> bool:
        """Whether these arrays fit each other, so that nobody who reads them is led outside an array."""
        arrays = vars(self)
        if not all(isinstance(x, np.ndarray) and x.dtype == np.int32 and x.ndim == 1 for x in arrays.values()):
            return False
        if len({(unit, len(arrays[name])) for name, unit in ENTRY_UNITS.items()}) != len(set(ENTRY_UNITS.values())):
            return False
        if np.concatenate([*arrays.values()]).min(initial=0) < 0 or self.window_lengths.min(initial=1) < 1:
            return False
        n_pieces, steps = len(self.ids), np.maximum.accumulate(self.window_pieces)
        if (
            self.sentence_pieces.sum() != n_pieces
            or self.window_lengths.sum() != len(self.window_pieces)
            or steps.max(initial=-1) != n_pieces - 1  # each piece is in a window, and new ones are in order
            or (np.diff(steps, prepend=-1) > 1).any()
            or max(self.aligned_pieces.max(initial=-1), self.window_class.max(initial=-1)) >= n_pieces
            or self.aligned_tokens.max(initial=-1) >= self.n_tokens
            or (self.kept_tokens > self.sentence_tokens).any()
            or (np.diff(self.aligned_tokens) < 0).any()
        ):
            return False
        sentence_of = np.repeat(np.arange(self.n_sentences), self.sentence_pieces)
        sentence_of_token = np.searchsorted(np.cumsum(self.sentence_tokens), self.aligned_tokens, side="right")
        return (
            np.array_equal(sentence_of[self.window_pieces], np.repeat(self.window_sentence, self.window_lengths))
            and np.array_equal(sentence_of[self.window_class], self.window_sentence)
            and np.array_equal(sentence_of[self.aligned_pieces], sentence_of_token)
        )

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


class Trusted(dict):
    """Stored pieces that this process has made or checked. A file gives a plain dict."""


def _trusted(doc: Doc) -> Trusted | None:
    """The stored pieces of a document, checked once; None if they are damaged. Whoever wrote a file may lie."""
    stored = doc.user_data[PIECES]
    if isinstance(stored, Trusted):
        return stored
    expected = {"cut": str, "model": str, "tokens": bytes, **dict.fromkeys(ENTRY_UNITS, np.ndarray)}
    if not isinstance(stored, dict) or not all(isinstance(stored.get(name), expected[name]) for name in expected):
        return None
    pieces = Pieces(**{name: stored[name] for name in ENTRY_UNITS})
    of_these_tokens = stored["tokens"] == digest_tokens(doc)
    if not pieces.are_consistent() or (of_these_tokens and pieces.n_tokens != len(doc)):
        return None
    trusted = doc.user_data[PIECES] = Trusted(stored, tokens=stored["tokens"] if of_these_tokens else b"")
    return trusted


def digest_tokens(doc: Doc) -> bytes:
    """A digest of a document's text and tokens, equal in every process."""
    return digest(doc.to_array(TOKEN_ATTRS))


def digest(tokens: np.ndarray) -> bytes:
    """That no other tokens can be made to have. SHA-256, because processors compute it."""
    return hashlib.sha256(tokens.data).digest()[:16]


def model_name(config: Any) -> str:
    """The type of a model and the sizes of its tables: the same pieces mean something else to another.

    config: the model's configuration in Transformers.
    """
    sizes = [getattr(config, name, None) for name in ("vocab_size", "max_position_embeddings")]
    return f"{config.model_type} (vocabulary {sizes[0]}, positions {sizes[1]})"


def bounds(counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """Start of each part, and the end of the last, from the parts' lengths: [2, 3] -> [0, 2, 5]."""
    return np.concatenate([[0], np.cumsum(counts)]).astype("int64")
