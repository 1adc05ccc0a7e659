"""Static vectors of words, from a transformer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
from spacy.language import Language
from spacy.strings import StringStore
from spacy.tokens import Doc
from spacy.vectors import Vectors
from thinc.api import to_numpy

AT_LEAST = 2  # times that a word must occur
MOST = 30_000  # words
BATCH = 1024  # words
RARE = 1e-3  # the vector of a word with this share of the text is halved


def ignores_case(nlp: Language) -> bool:
    """Whether a transformer gets the same pieces for capital letters as for small ones."""
    tokenizer = nlp.get_pipe("trf_wordpiecer").tokenizer
    return tokenizer.tokenize("One") == tokenizer.tokenize("one")


def vectors_of(nlp: Language, docs: Iterable[Doc], width: int) -> Vectors:
    """The vector of each word in some documents: the word goes through the transformer alone, then PCA reduces it.

    Frequent words, which say little, get short vectors. Sources: Arora et al. 2017, "A Simple but Tough-to-Beat
    Baseline for Sentence Embeddings"; Tulkens and van Dongen 2024, "Model2Vec: Fast State-of-the-Art Static
    Embeddings".
    """
    any_case = ignores_case(nlp)
    counts = Counter((token.lower_ if any_case else token.text) for doc in docs for token in doc if not token.is_space)
    words = [word for word, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST] if n >= AT_LEAST]
    if not words:
        return Vectors(shape=(1, width), name="teacher")
    rows = np.stack([_mean(to_numpy(doc.tensor), nlp) for doc in nlp.pipe(words, batch_size=BATCH)])
    shares = np.array([counts[word] for word in words]) / counts.total()
    table = _reduced(rows, np.sqrt(shares), width) * (RARE / (RARE + shares))[:, None]
    table /= max(np.sqrt((table**2).sum(axis=1).mean()), 1e-9)
    vectors, strings = Vectors(data=table.astype("float32"), name="teacher"), StringStore()
    for row, word in enumerate(words):
        for form in dict.fromkeys((word, word.capitalize(), word.upper()) if any_case else (word,)):
            if strings.add(form) not in vectors.key2row:  # the upper form of two words may be the same
                vectors.add(strings.add(form), row=row)
    return vectors


def _mean(rows: np.ndarray, nlp: Language) -> np.ndarray:
    return rows.mean(axis=0, dtype="float64") if len(rows) else np.zeros(nlp.get_pipe("trf_tok2vec").width)


def _reduced(rows: np.ndarray, weights: np.ndarray, width: int) -> np.ndarray:
    """The first principal components of weighted rows (n, any). RETURNS: (n, width)"""
    centred = rows - np.average(rows, axis=0, weights=weights)
    _, _, axes = np.linalg.svd(centred * np.sqrt(weights)[:, None], full_matrices=False)
    reduced = np.zeros((len(rows), width))
    reduced[:, : len(axes)] = centred @ axes[:width].T
    return reduced
