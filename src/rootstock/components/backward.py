"""When the transformer's backward pass runs: after the last of its heads has added its gradient."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

from spacy.language import Language
from spacy.tokens import Doc
from thinc.api import Model, Optimizer


class Transformer(Protocol):
    """What a head may ask of the `trf_tok2vec` before it."""

    model: Model
    trainable: bool

    @property
    def transformer(self) -> Any:
        """The PyTorch model."""

    @property
    def width(self) -> int:
        """Size of a piece's vector."""

    def annotate(self, docs: list[Doc]) -> None:
        """Set the outputs of documents."""

    def has_annotated(self, doc: Doc) -> bool:
        """Whether the outputs of the Doc are this transformer's."""

    def skips(self, doc: Doc) -> bool:
        """Whether the Doc has precomputed features instead of outputs."""


class BackwardPass:
    """One backward pass for all heads, and one step after it.

    `trf_tok2vec` calls `wait_for` after its forward pass; each head calls `head_updated` when it has added its
    gradient, and `head_finished` when it has stepped. spaCy calls `finish_update` of the components in two orders:
    straight after each component's update (`nlp.update(sgd=...)`), or after all updates (`spacy train`, accumulated
    gradients). Both give the same step.

    A head is any object that adds a gradient: a `Head`, or the `Link` of a listener layer.
    """

    def __init__(self, step: Callable[[Optimizer], None]) -> None:
        """step: updates the transformer by its gradients."""
        self._step = step
        self._run: Callable[[], None] | None = None  # None after the backward pass
        self._active: frozenset[Any] = frozenset()  # heads that are updated with this batch
        self._pending: set[Any] = set()  # active heads that have not added their gradient yet

    def wait_for(self, heads: set[Any], run: Callable[[], None] | None) -> None:
        """Call `run`, the backward pass, once all these heads have added their gradients. None: there is none."""
        self._active, self._pending, self._run = frozenset(heads), set(heads), run

    def head_updated(self, head: Any) -> None:
        """A head has added its gradient; the last call runs the backward pass."""
        self._pending.discard(head)
        if not self._pending and self._run is not None:
            run, self._run = self._run, None
            run()

    def head_finished(self, head: Any, sgd: Optimizer) -> None:
        """A head has stepped; it adds no more gradients, even if it has not called `head_updated`."""
        self.head_updated(head)
        self._step_if_done(sgd)

    def complete(self) -> None:
        """Run the backward pass if some heads have added their gradients, but others have not and will not."""
        if len(self._pending) < len(self._active):
            self._pending.clear()
            self.head_updated(None)

    def finish_update(self, sgd: Optimizer) -> None:
        """The transformer's own `finish_update`: steps if all heads have been updated, else the last head does."""
        self.complete()
        self._step_if_done(sgd)

    def _step_if_done(self, sgd: Optimizer) -> None:
        if self._run is None:
            self._step(sgd)


def running_update() -> tuple[Language | None, set[str]]:
    """The pipeline whose `Language.update` is running, None if none is, and the names excluded from the update.

    spaCy tells a component neither, so this reads the arguments of the call. If they cannot be read, heads are those
    that spaCy has connected, and an excluded one is waited for: the backward pass runs at the beginning of the next
    update.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is Language.update.__code__ and {"self", "exclude"} <= frame.f_locals.keys():
            return frame.f_locals["self"], set(frame.f_locals["exclude"])
        frame = frame.f_back
    return None, set()
