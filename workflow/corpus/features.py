"""Documents reduced to what a head classifies: all that it needs of a transformer that is frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import srsly
from spacy.language import Language
from spacy.tokens import Doc

from rootstock.attributes import ROWS

from . import shards

REPORT = "report.json"  # how they were computed
TEXT = "text"  # doc.user_data, of a document that has no tokens


def reduced(doc: Doc, rows: Any) -> Doc:
    """rows: array (n_rows, width)."""
    found = Doc(doc.vocab)
    found.cats = doc.cats
    found.user_data.update({shards.ROW: doc.user_data[shards.ROW], TEXT: doc.text, ROWS: rows})
    return found


def folder(inputs: dict[str, Path], split: str, nlp: Language) -> Path:
    """Where a stage reads a split: reduced, if this pipeline would compute the same; else in pieces."""
    features, tok2vec = inputs["features"], nlp.get_pipe("trf_tok2vec")
    frozen = not tok2vec.trainable and tok2vec.saved_precision == "fp32"
    same = frozen and srsly.read_json(features / REPORT) == settings(tok2vec)
    return features / split if same else inputs[f"wordpieces/{split}"]


def settings(tok2vec: Any) -> dict[str, Any]:
    """On which the numbers depend, besides the weights and the pieces."""
    return {"precision": tok2vec.precision}
