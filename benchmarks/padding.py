"""How many of the pieces that the model computes are pieces of a text. In the worker."""

from __future__ import annotations

from typing import Any

from .data import texts


class Padding:
    """Counted where ids enter the model, whatever cut, sorted and padded them."""

    def __init__(self, weights: str, path: str, documents: int) -> None:
        import spacy

        self.texts = texts(path, documents)
        self.nlp = spacy.blank("en")
        self.nlp.add_pipe("trf_wordpiecer", config={"weights": weights})
        tok2vec = self.nlp.add_pipe("trf_tok2vec", config={"weights": weights})
        textcat = self.nlp.add_pipe("trf_textcat")
        for label in CATS:
            textcat.add_label(label)
        self.padding = tok2vec.transformer.config.pad_token_id
        tok2vec.transformer.get_input_embeddings().register_forward_pre_hook(self.count)

    def count(self, module: Any, inputs: Any) -> None:
        self.real += int((inputs[0] != self.padding).sum())
        self.computed += inputs[0].numel()

    def __call__(self, train: bool) -> dict[str, Any]:
        self.real = self.computed = 0
        self.train() if train else list(self.nlp.pipe(self.texts))
        return {"share": self.real / self.computed}

    def train(self) -> None:
        from spacy.training import Example
        from spacy.util import minibatch

        optimizer = self.nlp.resume_training()
        for batch in minibatch(self.texts, 32):
            examples = [Example.from_dict(self.nlp.make_doc(text), {"cats": CATS}) for text in batch]
            self.nlp.update(examples, sgd=optimizer)


CATS = {"A": 1.0, "B": 0.0}
