"""Vectors of documents from a transformer that is not fine-tuned."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import to_numpy

BATCH = 128  # documents


def of_docs(nlp: Language, docs: Iterable[Doc]) -> np.ndarray:
    """The mean of the rows that the head would classify; zeros for a document without any. RETURNS: (n_docs, width)

    Their mean length is 1, so that regularization means the same for all weights. The pieces must be set; the documents
    keep nothing of what is computed.
    """
    head, tok2vec = nlp.get_pipe("trf_textcat"), nlp.get_pipe("trf_tok2vec")
    found = []
    for doc in tok2vec.pipe(map(detached, docs), batch_size=BATCH):
        rows = to_numpy(head.rows(doc)[0])
        found.append(rows.mean(axis=0, dtype="float64") if len(rows) else np.zeros(tok2vec.width))
    vectors = np.array(found, "float64")
    return vectors / max(np.linalg.norm(vectors, axis=1).mean(), 1e-9)


def of_texts(nlp: Language, texts: Iterable[str]) -> np.ndarray:
    """The same for texts."""
    return of_docs(nlp, nlp.get_pipe("trf_wordpiecer").pipe(nlp.tokenizer.pipe(texts)))


def detached(doc: Doc) -> Doc:
    """A copy, so that what the pipeline computes does not stay with the document."""
    copy = doc.copy()
    copy.user_data = dict(doc.user_data)
    return copy
