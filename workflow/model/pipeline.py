"""The pipeline that `finetune` trains."""

from __future__ import annotations

import json
from pathlib import Path

import spacy
from spacy.language import Language

from ..engine.params import Params

POOLING = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "class_vector"}  # our names of theirs


def build(params: Params, weights: Path, labels: list[str]) -> Language:
    nlp = spacy.blank(params.language)
    pieces = params.wordpiece.model_dump(include={"spans", "long_sentences"})
    nlp.add_pipe("trf_wordpiecer", config={"weights": str(weights), **pieces})
    finetune = params.finetune
    tok2vec = finetune.model_dump(
        include={"trainable", "train_layers", "layer_decay", "precision", "kernels", "saved_precision"}
    )
    tok2vec["learning_rate_scale"] = finetune.learning_rate / (finetune.head_learning_rate or finetune.learning_rate)
    tok2vec["words_per_batch"] = params.wordpiece.words_per_batch
    nlp.add_pipe("trf_tok2vec", config={"weights": str(weights), **tok2vec})
    head = finetune.head if finetune.head != "auto" else pretrained_head(weights)
    settings = {"exclusive_classes": params.data.exclusive, "head": head, "label_smoothing": finetune.label_smoothing}
    textcat = nlp.add_pipe("trf_textcat", config={**settings, "seed": params.seed})
    for label in labels:
        textcat.add_label(label)
    return nlp


def pretrained_head(weights: Path) -> str:
    """The head that classifies what the weights were pretrained to compute: sentence-transformers says it in a file."""
    path = weights / "1_Pooling" / "config.json"
    modes = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return next((head for mode, head in POOLING.items() if modes.get(mode) is True), "class_vector")
