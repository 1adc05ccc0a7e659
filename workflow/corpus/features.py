"""Documents reduced to the features that a head reads, computed once by a frozen transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spacy.language import Language
from spacy.tokens import Doc

from rootstock.attributes import ROWS

from . import shards

REPORT = shards.REPORT  # the settings that the features were computed with
TEXT = "text"  # key in doc.user_data: the text of a reduced document, which has no tokens


def reduced(doc: Doc, rows: Any) -> Doc:
    """A Doc without tokens that holds features, labels and text. rows: array (n_rows, width)."""
    without_tokens = Doc(doc.vocab)
    without_tokens.cats = doc.cats
    without_tokens.user_data.update({shards.ROW: doc.user_data[shards.ROW], TEXT: doc.text, ROWS: rows})
    return without_tokens


def folder(inputs: dict[str, Path], split: str, nlp: Language) -> Path:
    """The folder to read a split from: features if this pipeline would compute the same ones, else wordpieces."""
    if "features" not in inputs or not nlp.has_pipe("trf_tok2vec"):  # a student
        return inputs[f"wordpieces/{split}"]
    features, tok2vec = inputs["features"], nlp.get_pipe("trf_tok2vec")
    frozen = not tok2vec.trainable and tok2vec.saved_precision == "fp32"
    reusable = frozen and shards.report(features) == settings(nlp)
    return features / split if reusable else inputs[f"wordpieces/{split}"]


def settings(nlp: Language) -> dict[str, Any]:
    """The settings that the features depend on, besides weights and wordpieces."""
    tok2vec, head = nlp.get_pipe("trf_tok2vec"), nlp.get_pipe("trf_textcat").head
    return {"precision": tok2vec.precision, "kernels": tok2vec.encoder["kernels"], "head": head}
