"""`rootstock.TransformerListener.v1`: the tok2vec layer with which spaCy's own components train on the transformer.

It gives them `doc.tensor`, and takes their gradient back through the alignment: the tagger, parser, ner, textcat and
whatever else takes a tok2vec layer in its config.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spacy.tokens import Doc
from thinc.api import Model, Optimizer
from thinc.shims import Shim

from ..pieces.alignment import add_tensor_gradient
from ..pieces.pieces import KEY

if TYPE_CHECKING:
    from .tok2vec import TransformerTok2Vec


def make_listener() -> Model[list[Doc], list[Any]]:
    """A layer from documents to the rows of their tensors, (n_tokens, width) each.

    The `trf_tok2vec` that stands before the component in the pipeline finds the layer and connects it.
    """
    return Model("transformer_listener", _forward, dims={"nO": None}, shims=[Link()])


def listeners_of(component: Any) -> list[Model]:
    """The listeners within a component's model, however deep."""
    model = getattr(component, "model", None)
    return [node for node in model.walk() if node.name == "transformer_listener"] if isinstance(model, Model) else []


class Link(Shim):
    """Ties a listener to its `trf_tok2vec`: a shim, because Thinc hands those the optimizer at each step."""

    tok2vec: TransformerTok2Vec | None = None
    component = ""

    def __init__(self) -> None:
        super().__init__(None)

    def connect(self, tok2vec: TransformerTok2Vec, component: str) -> None:
        self.tok2vec, self.component = tok2vec, component

    def finish_update(self, optimizer: Optimizer) -> None:
        if self.tok2vec is not None:
            self.tok2vec.head_finished(self.component, optimizer)

    def __deepcopy__(self, memo: dict) -> Link:
        return Link()  # a copy of a component is not part of the pipeline

    def to_device(self, device_type: str, device_id: int) -> None:
        """Nothing to move."""

    def to_bytes(self) -> bytes:
        return b""

    def from_bytes(self, data: bytes) -> Link:
        return self


def _forward(model: Model, docs: list[Doc], is_train: bool) -> tuple[list[Any], Callable]:
    link = model.shims[0]
    bare = [doc for doc in docs if len(doc.tensor) != len(doc) and KEY in doc.user_data]
    if bare and link.tok2vec is not None:  # trf_tok2vec is excluded from this update
        link.tok2vec.annotate(bare)
    # spaCy sizes its components with documents that no other component has seen.
    rows = [
        doc.tensor if len(doc.tensor) == len(doc) else model.ops.alloc2f(len(doc), model.get_dim("nO")) for doc in docs
    ]

    def backprop(d_rows: list[Any]) -> list[Doc]:
        for doc, gradient in zip(docs, d_rows, strict=True):
            add_tensor_gradient(doc, gradient)
        link.tok2vec.head_updated(link.component)
        return docs

    return rows, backprop
