"""Documents reduced to the features that a head reads, computed once by a frozen transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import srsly
from spacy.language import Language
from spacy.tokens import Doc

from rootstock.attributes import ROWS

from . import shards

REPORT = "report.json"  # the settings that the features were computed with
TEXT = "text"  # key in doc.user_data: the text of a reduced document, which has no tokens


def reduced(doc: Doc, rows: Any) -> Doc:
    """A Doc without tokens that holds features, labels and text. rows: array (n_rows, width)."""
    small = Doc(doc.vocab)
    small.cats = doc.cats
    small.user_data.update({shards.ROW: doc.user_data[shards.ROW], TEXT: doc.text, ROWS: rows})
    return small


def folder(inputs: dict[str, Path], split: str, nlp: Language) -> Path:
    """Where a stage reads a split: the features if this pipeline would compute the same ones, else the pieces."""
    features, tok2vec = inputs["features"], nlp.get_pipe("trf_tok2vec")
    frozen = not tok2vec.trainable and tok2vec.saved_precision == "fp32"
    same = frozen and srsly.read_json(features / REPORT) == settings(tok2vec)
    return features / split if same else inputs[f"wordpieces/{split}"]


def settings(tok2vec: Any) -> dict[str, Any]:
    """What the features depend on besides weights and pieces."""
    return {"precision": tok2vec.precision}
