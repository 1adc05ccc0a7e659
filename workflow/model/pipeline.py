"""The pipeline that `finetune` trains."""

from __future__ import annotations

from pathlib import Path

import spacy
from spacy.language import Language

from ..engine.params import Params


def build(params: Params, weights: Path, labels: list[str]) -> Language:
    nlp = spacy.blank(params.language)
    pieces = params.wordpiece.model_dump(include={"spans", "long_sentences"})
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(weights), **pieces})
    tok2vec = params.finetune.model_dump(include={"trainable", "precision", "kernels", "saved_precision"})
    tok2vec["words_per_batch"] = params.wordpiece.words_per_batch
    nlp.add_pipe("trf_tok2vec", config={"weights": str(weights), **tok2vec})
    textcat = nlp.add_pipe("trf_textcat", config={"exclusive_classes": params.data.exclusive, "seed": params.seed})
    for label in labels:
        textcat.add_label(label)
    return nlp
