"""`rootstock.TransformerListener.v1`: a tok2vec layer to train spaCy's own components on the transformer.

Its output is `doc.tensor`; its backward pass sends gradients through the alignment to the transformer. It works in
every component with a tok2vec layer in its config: tagger, parser, ner, textcat and others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spacy.tokens import Doc
from thinc.api import Model, Optimizer
from thinc.shims import Shim

from ..pieces.alignment import add_tensor_gradient
from ..pieces.pieces import PIECES
from .backward import BackwardPass, Transformer


def make_listener() -> Model[list[Doc], list[Any]]:
    """A layer from documents to their tensors, (n_tokens, width) each.

    The `trf_tok2vec` before the component in the pipeline finds the layer and connects to it.
    """
    return Model("transformer_listener", _forward, dims={"nO": None}, shims=[Link()])


def listeners_of(component: Any) -> list[Model]:
    """The listener layers in a component's model, at any depth."""
    model = getattr(component, "model", None)
    return [node for node in model.walk() if node.name == "transformer_listener"] if isinstance(model, Model) else []


class Link(Shim):
    """Connects a listener to its `trf_tok2vec`. A shim, because Thinc calls its `finish_update` at each step."""

    tok2vec: Transformer | None = None
    backward: BackwardPass  # set together with tok2vec
    component = ""

    def __init__(self) -> None:
        super().__init__(None)

    def connect(self, tok2vec: Transformer, backward: BackwardPass, component: str) -> None:
        self.tok2vec, self.backward, self.component = tok2vec, backward, component

    def finish_update(self, optimizer: Optimizer) -> None:
        if self.tok2vec is not None:
            self.backward.head_finished(self.component, optimizer)

    def __deepcopy__(self, memo: dict) -> Link:
        return Link()  # a copy of a component is not part of the pipeline

    def to_device(self, device_type: str, device_id: int) -> None:
        """Does nothing: there are no arrays."""

    def to_bytes(self) -> bytes:
        return b""

    def from_bytes(self, data: bytes) -> Link:
        return self


def _forward(model: Model, docs: list[Doc], is_train: bool) -> tuple[list[Any], Callable]:
    link = model.shims[0]
    without_tensor = [doc for doc in docs if len(doc.tensor) != len(doc) and PIECES in doc.user_data]
    if without_tensor and link.tok2vec is not None:  # trf_tok2vec is excluded from this update
        link.tok2vec.annotate(without_tensor)
    # For shape inference spaCy passes documents that no other component has processed: they get zeros.
    tensors = [
        doc.tensor if len(doc.tensor) == len(doc) else model.ops.alloc2f(len(doc), model.get_dim("nO")) for doc in docs
    ]

    def backprop(d_tensors: list[Any]) -> list[Doc]:
        for doc, d_tensor in zip(docs, d_tensors, strict=True):
            add_tensor_gradient(doc, d_tensor)
        link.backward.head_updated(link.component)
        return docs

    return tensors, backprop
