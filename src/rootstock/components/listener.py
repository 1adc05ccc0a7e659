"""`rootstock.TransformerListener.v1`: a tok2vec layer to train spaCy's own components on the transformer.

Its output is the transformer's row for each token, as in `doc.tensor`, whatever else writes `doc.tensor`; its backward
pass sends gradients through the alignment to the transformer. It works in every component with a tok2vec layer in its
config: tagger, parser, ner, textcat and others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from spacy.tokens import Doc
from thinc.api import Model, Optimizer
from thinc.shims import Shim

from .. import attributes
from ..pieces.alignment import add_tensor_gradient
from .backward import BackwardPass, Transformer
from .pooling import NO_OUTPUT


def make_listener() -> Model[list[Doc], list[Any]]:
    """A layer from documents to their tensors, (n_tokens, width) each.

    The `trf_tok2vec` before the component in the pipeline finds the layer and connects to it.
    """
    return Model("transformer_listener", _forward, init=_init, dims={"nO": None}, shims=[Link()])


def listeners_of(component: Any) -> list[Model]:
    """The listener layers in a component's model, at any depth."""
    model = getattr(component, "model", None)
    return [node for node in model.walk() if node.name == "transformer_listener"] if isinstance(model, Model) else []


class Link(Shim):
    """Connects a listener to its `trf_tok2vec`. A shim, because Thinc calls its `finish_update` at each step."""

    tok2vec: Transformer | None = None
    backward: BackwardPass  # set together with tok2vec
    reads_only_class_pieces = False

    def __init__(self) -> None:
        super().__init__(None)
        self.samples: list[Doc] = []  # the documents with which the component's model is being initialized

    def connect(self, tok2vec: Transformer, backward: BackwardPass) -> None:
        """Called by the `trf_tok2vec` before this component in the pipeline; also at the end of `nlp.initialize`."""
        self.tok2vec, self.backward, self.samples = tok2vec, backward, []

    def finish_update(self, optimizer: Optimizer) -> None:
        if self.tok2vec is not None:
            self.backward.head_finished(self, optimizer)

    def __deepcopy__(self, memo: dict) -> Link:
        return Link()  # a copy of a component is not part of the pipeline

    def to_device(self, device_type: str, device_id: int) -> None:
        """Does nothing: there are no arrays."""

    def to_bytes(self) -> bytes:
        return b""

    def from_bytes(self, data: bytes) -> Link:
        return self


def _init(model: Model, X: list[Doc] | None = None, Y: Any = None) -> None:
    """Remember the documents from which Thinc infers shapes: no other component has processed them."""
    model.shims[0].samples = X or []


def _forward(model: Model, docs: list[Doc], is_train: bool) -> tuple[list[Any], Callable]:
    link = model.shims[0]
    if is_train and link.tok2vec is not None:  # trf_tok2vec may be excluded from this update
        link.tok2vec.annotate([doc for doc in docs if not link.tok2vec.has_annotated(doc)])

    def backprop(d_tensors: list[Any]) -> list[Doc]:
        if link.tok2vec is None:
            raise ValueError(NO_OUTPUT)
        for doc, d_tensor in zip(docs, d_tensors, strict=True):
            add_tensor_gradient(doc, d_tensor)
        link.backward.head_updated(link)
        return docs

    return [_tensor(model, doc) for doc in docs], backprop


def _tensor(model: Model, doc: Doc) -> Any:
    """The transformer's rows for the tokens of a Doc; zeros if it has no tokens, or in shape inference.

    Raises ValueError if the Doc has no transformer output.
    """
    tensor = attributes.tensor(doc)
    if len(doc) and tensor is not None and len(tensor) == len(doc):
        return tensor
    if len(doc) and not any(doc is sample for sample in model.shims[0].samples):
        raise ValueError(NO_OUTPUT)
    return model.ops.alloc2f(len(doc), model.get_dim("nO"))
