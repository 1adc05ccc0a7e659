"""Contender that measures which share of the positions computed by the model are wordpieces, not padding."""

from __future__ import annotations

from typing import Any

from .data import read_texts

CATS = {"A": 1.0, "B": 0.0}


class Padding:
    """Counts input ids where they enter the model, after they were split, sorted and padded."""

    def __init__(self, weights: str, path: str, n_documents: int) -> None:
        import spacy

        self.texts = read_texts(path, n_documents)
        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("trf_wordpiecer", config={"weights": weights})
        tok2vec = self.nlp.add_pipe("trf_tok2vec", config={"weights": weights})
        textcat = self.nlp.add_pipe("trf_textcat")
        for label in CATS:
            textcat.add_label(label)
        self.pad_token_id = tok2vec.transformer.config.pad_token_id
        tok2vec.transformer.get_input_embeddings().register_forward_pre_hook(self.count)

    def count(self, module: Any, inputs: Any) -> None:
        self.wordpieces += int((inputs[0] != self.pad_token_id).sum())
        self.positions += inputs[0].numel()

    def __call__(self, train: bool) -> dict[str, Any]:
        self.wordpieces = self.positions = 0
        self.train() if train else list(self.nlp.pipe(self.texts))
        return {"share": self.wordpieces / self.positions}

    def train(self) -> None:
        from spacy.training import Example
        from spacy.util import minibatch

        optimizer = self.nlp.resume_training()
        for batch in minibatch(self.texts, 32):
            examples = [Example.from_dict(self.nlp.make_doc(text), {"cats": CATS}) for text in batch]
            self.nlp.update(examples, sgd=optimizer)
