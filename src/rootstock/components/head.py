"""Base class of task heads: components that are trained together with the transformer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc
from spacy.training import Example
from thinc.api import Optimizer

from .. import attributes
from ..pieces.pieces import Pieces
from .backward import BackwardPass, Transformer


class Head(TrainablePipe):
    """Base class of heads. A subclass implements `predict`, `set_annotations` and `learn`.

    `learn(docs, examples, drop)` adds the gradient of its loss to `doc._.trf_d_last_hidden_state` or
    `doc._.trf_d_pooler_output`, accumulates the gradients of its own parameters, and returns the loss. It is not called
    for a batch in which no document has pieces.
    A head that reads documents only through `pooling.class_vectors` or `pooling.pooler_output` may set
    `reads_only_class_pieces = True`: training then computes the last layer only for class pieces.
    """

    tok2vec: Transformer | None = None
    backward: BackwardPass  # set together with tok2vec
    reads_only_class_pieces = False

    def connect(self, tok2vec: Transformer, backward: BackwardPass) -> None:
        """Called by the `trf_tok2vec` before this component in the pipeline."""
        self.tok2vec, self.backward = tok2vec, backward

    def learn(self, docs: list[Doc], examples: list[Example], drop: float) -> float:
        raise NotImplementedError

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        losses = {} if losses is None else losses
        examples = list(examples)
        docs = [eg.predicted for eg in examples]
        if self.tok2vec is None:
            raise ValueError(f"component '{self.name}' needs 'trf_tok2vec' before it in the pipeline")
        self.tok2vec.annotate([doc for doc in docs if not self.tok2vec.has_annotated(doc)])
        losses.setdefault(self.name, 0.0)
        if any(attributes.ROWS in doc.user_data or len(Pieces.of(doc, aligned=False).ids) for doc in docs):
            losses[self.name] += self.learn(docs, examples, drop)
        self.backward.head_updated(self)
        if sgd not in (None, False):
            self.finish_update(sgd)
        return losses

    def finish_update(self, sgd: Optimizer) -> None:
        self.model.finish_update(sgd)
        if self.tok2vec is not None:
            self.backward.head_finished(self, sgd)

    def initialize(self, get_examples: Any, *, nlp: Any = None) -> None:
        raise NotImplementedError
