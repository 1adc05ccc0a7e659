"""`trf_tok2vec`: run the transformer over the sentences and set `doc.tensor`, vectors and the `._.trf_*` outputs."""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer

from .. import attributes
from ..pieces.pieces import Pieces
from ..training.learning_rates import LearningRates
from ..weights.weights import BytesOfFolder, forget_folders, load_model, save_model
from .head import Head
from .listener import listeners_of

if TYPE_CHECKING:
    from ..encoder.batch import Encoded

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@Language.factory(
    "trf_tok2vec",
    assigns=["doc.tensor", "doc._.trf_last_hidden_state", "doc._.trf_pooler_output"],
    requires=["doc._.trf_word_pieces"],
    default_config={
        "weights": None,
        "trainable": True,
        "train_layers": None,
        "learning_rate_scale": 1.0,
        "layer_decay": 1.0,
        "words_per_batch": 3000,
        "precision": "auto",
        "saved_precision": "fp32",
        "mix_layers": False,
        "hidden_states": False,
        "attentions": False,
    },
)
def make_tok2vec(
    nlp: Language,
    name: str,
    weights: str | None,
    trainable: bool,
    train_layers: int | None,
    learning_rate_scale: float,
    layer_decay: float,
    words_per_batch: int,
    precision: Precision,
    saved_precision: Literal["fp32", "bf16", "fp16"],
    mix_layers: bool,
    hidden_states: bool,
    attentions: bool,
) -> "TransformerTok2Vec":
    """Make the component for `nlp.add_pipe`.

    weights: folder with config.json and model.safetensors; None for a component that is about to be loaded.
    trainable: whether the heads' gradients change the transformer.
    train_layers: train the last N layers alone (and what stands above them); None for all, embeddings included; 0 with
        mix_layers for the mix alone.
    learning_rate_scale: the transformer's learning rate as a multiple of the optimizer's.
    layer_decay: each layer's learning rate as a multiple of that of the layer above it (Howard and Ruder 2018,
        "Universal Language Model Fine-tuning for Text Classification", discriminative fine-tuning).
    words_per_batch: the most wordpieces, with the padding that there is, that the transformer computes at a time.
    precision: fp32; bf16 or fp16 (matrix products in these, weights in fp32); auto: bf16 where the hardware is fast
        at it.
    saved_precision: in which the weights are saved; bf16 and fp16 take half the space.
    mix_layers: make `trf_last_hidden_state`, and what follows from it, a learned mix of the states of all layers
        (Peters et al. 2018, "Deep contextualized word representations"). The pooler reads the last layer still.
    hidden_states, attentions: whether `doc._.trf_all_hidden_states` and `doc._.trf_all_attentions` are set.
    Raises ValueError where the folder holds no weights, or not all of them.
    """
    pipe = TransformerTok2Vec(
        nlp.vocab,
        name,
        rates=LearningRates(train_layers if trainable else 0, learning_rate_scale, layer_decay),
        trainable=trainable and (mix_layers or train_layers != 0),
        words_per_batch=words_per_batch,
        precision=precision,
        saved_precision=saved_precision,
        mix_layers=mix_layers,
        layers={"hidden_states": hidden_states, "attentions": attentions},
    )
    if weights is not None:
        pipe.read_weights(Path(weights))
        forget_folders(nlp)
    return pipe


class TransformerTok2Vec(BytesOfFolder, TrainablePipe):
    """Forward here; each head adds its gradient to `doc._.trf_d_*`; the last one sets off one backward pass."""

    def __init__(
        self,
        vocab: Vocab,
        name: str,
        *,
        rates: LearningRates,
        trainable: bool,
        words_per_batch: int,
        precision: str,
        saved_precision: str,
        mix_layers: bool,
        layers: dict[str, bool],
    ) -> None:
        attributes.register()
        self.vocab = vocab
        self.name = name
        self.cfg: dict[str, Any] = {}
        self.rates = rates
        self.trainable = trainable
        self.words_per_batch = words_per_batch
        self.precision = precision
        self.saved_precision = saved_precision
        self.mix_layers = mix_layers
        self.layers = layers
        self.model = Model("transformer", _no_weights)
        self.listener_map: dict[str, list[Model]] = {}
        self.heads: dict[str, Head] = {}  # those of the listeners that are ours
        self._awaited: frozenset[str] = frozenset()  # heads that learn from this batch
        self._due: set[str] = set()  # those of them that have still to add their gradient
        self._backprop: Any = None  # set from the forward pass until the backward pass has run

    @property
    def transformer(self) -> Any:
        """The PyTorch model. Raises ValueError before there is one."""
        if not self.model.shims:
            raise ValueError(f"component '{self.name}' has no weights: add it with config={{'weights': FOLDER}}")
        return self.model.shims[0]._model

    @property
    def mix(self) -> Any:
        """The PyTorch module that mixes the layers, None without one."""
        return next((shim._model for shim in self.model.shims[1:]), None)

    @property
    def width(self) -> int:
        """Numbers in the vector of a piece."""
        return self.transformer.config.hidden_size

    @property
    def is_trainable(self) -> bool:
        return self.trainable

    def initialize(self, get_examples: Any, *, nlp: Language | None = None) -> None:
        """Nothing to do: the weights are pretrained."""

    # Prediction.

    def spares(self, doc: Doc) -> bool:
        """Whether nothing is computed for a Doc: it has brought along what its head reads of a frozen transformer."""
        return attributes.ROWS in doc.user_data and not self.trainable

    def predict(self, docs: Iterable[Doc]) -> "list[Encoded | None]":
        """None for a Doc that is spared."""
        docs = list(docs)
        pieces = [Pieces.of(doc) for doc in docs if not self.spares(doc)]
        encoded = iter(self.model.predict(pieces) if pieces else [])
        return [None if self.spares(doc) else next(encoded) for doc in docs]

    def set_annotations(self, docs: Iterable[Doc], encoded: "Sequence[Encoded | None]") -> None:
        for doc, output in zip(docs, encoded, strict=True):
            if output is None:
                continue
            doc.tensor = np.zeros((0, 0), "f") if output.tensor is None else output.tensor
            doc.user_data[attributes.OUTPUTS] = {
                name: value for name, value in output._asdict().items() if name != "tensor" and value is not None
            }
            doc.user_data.pop(attributes.GRADIENTS, None)
            attributes.hook_vectors(doc)

    # Training.

    def update(
        self,
        examples: Iterable[Example],
        *,
        drop: float = 0.0,
        sgd: Optimizer | None = None,
        losses: dict[str, float] | None = None,
    ) -> dict[str, float]:
        """Run the forward pass for the heads that follow; `drop` is the dropout rate of every layer.

        Where all of them read class pieces alone, nothing else is computed of the last layer: documents get
        `trf_class_states` and no `doc.tensor`.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)  # it has none of its own; spaCy's loggers want an entry
        docs = [eg.predicted for eg in examples]
        self._complete()
        self._due = _updated_now(set(self.listener_map)) if self.trainable else set()
        self._awaited = frozenset(self._due)
        if self._due:
            from ..encoder.kernels.dropout import set_dropout

            set_dropout(self.transformer, drop)
            self.model.attrs["class_pieces_alone"] = self._class_pieces_alone()
            encoded, backprop = self.model.begin_update([self._pieces(doc) for doc in docs])
            alone = [one.class_states is not None for one in encoded]
            self._backprop = lambda: backprop([_gradients(*pair) for pair in zip(docs, alone, strict=True)])
        else:
            self._backprop = None
            encoded = self.predict(docs)
        self.set_annotations(docs, encoded)
        return losses

    def _pieces(self, doc: Doc) -> Pieces:
        if attributes.is_reduced(doc):
            raise ValueError(
                f"component '{self.name}' learns, but a Doc has no text, only '{attributes.ROWS}' of a frozen "
                "transformer: set trainable: false, or pass documents"
            )
        return Pieces.of(doc)

    def _class_pieces_alone(self) -> bool:
        """Whether no component that listens, now or in a later batch, reads other pieces."""
        heads = [self.heads.get(name) for name in self.listener_map]
        return all(head is not None and head.reads_class_pieces_alone for head in heads)

    def annotate(self, docs: list[Doc]) -> None:
        """Outputs for documents that this component's update has not seen."""
        self.set_annotations(docs, self.predict(docs))

    def head_updated(self, name: str) -> None:
        """A head has added its gradient: the last of them runs the backward pass."""
        self._due.discard(name)
        if not self._due and self._backprop is not None:
            self._backprop()
            self._backprop = None

    def head_finished(self, name: str, sgd: Optimizer) -> None:
        """A head has stepped. One that found nothing to learn has not reported before; it adds nothing any more."""
        self.head_updated(name)
        self._step(sgd)

    def finish_update(self, sgd: Optimizer) -> None:
        """Step, where all heads have run, as in `spacy train`.

        `nlp.update(sgd=...)` calls this before any of them has: then it is the last head that sets off the step.
        """
        self._complete()
        self._step(sgd)

    def _complete(self) -> None:
        """Run a backward pass that still waits for a head, though others have reported."""
        if len(self._due) < len(self._awaited):
            self._due.clear()
            self.head_updated("")

    def _step(self, sgd: Optimizer) -> None:
        if self._backprop is None and self.model.shims and self.trainable:
            self.model.attrs["loss_scale"].unscale(self.model)
            self.model.finish_update(sgd)

    # spaCy's ListenedToComponent: how it tells this component which heads follow.

    @property
    def listeners(self) -> list[Model]:
        return [model for models in self.listener_map.values() for model in models]

    @property
    def listening_components(self) -> list[str]:
        return list(self.listener_map)

    def add_listener(self, listener: Model, component_name: str) -> None:
        self.listener_map.setdefault(component_name, []).append(listener)

    def remove_listener(self, listener: Model, component_name: str) -> bool:
        return bool(self.listener_map.pop(component_name, None))

    def find_listeners(self, component: Any) -> None:
        if isinstance(component, Head):
            self.add_listener(component.model, component.name)
            self.heads[component.name] = component
            component.connect(self)
        for listener in listeners_of(component):
            self.heads.pop(component.name, None)
            self.add_listener(listener, component.name)
            listener.shims[0].connect(self, component.name)
            if self.model.shims:
                listener.set_dim("nO", self.width)

    # Serialization: the folder is a weights folder without the tokenizer.

    def read_weights(self, folder: Path) -> None:
        """Take the weights in a folder. Raises ValueError where they are missing, or not all there."""
        from ..encoder.encoder import make_encoder

        net, mix = load_model(folder), None
        if self.mix_layers:
            from ..encoder.layer_mix import LayerMix

            mix = LayerMix.read(folder / MIX, net.config.num_hidden_layers + 1)
        self.model = make_encoder(net, self.words_per_batch, self.precision, self.rates, mix=mix, **self.layers)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        save_model(self.transformer, path, self.saved_precision)
        if self.mix is not None:
            self.mix.write(Path(path) / MIX)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "TransformerTok2Vec":
        self.read_weights(Path(path))
        return self


MIX = "layer_mix.safetensors"


def _no_weights(model: Model, docs: Any, is_train: bool) -> Any:
    raise ValueError("trf_tok2vec has no weights: add it with config={'weights': FOLDER}")


def _gradients(doc: Doc, class_pieces_alone: bool) -> tuple[Any, Any]:
    """What the heads have added, None where nobody has."""
    gradients = doc.user_data.get(attributes.GRADIENTS, {})
    states = gradients.get("last_hidden_state")
    if class_pieces_alone:  # heads have seen all pieces if trf_tok2vec has annotated in between
        classes = Pieces.of(doc).window_class.tolist()
        states = gradients.get("class_states") if states is None else states[classes]
    return states, gradients.get("pooler_output")


def _updated_now(heads: set[str]) -> set[str]:
    """Those heads that the running `Language.update` will update; all of them outside of one."""
    # spaCy tells no component which others are excluded, and the last one left must run the backward pass.
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is Language.update.__code__:
            return heads & (set(frame.f_locals["self"].pipe_names) - set(frame.f_locals["exclude"]))
        frame = frame.f_back
    return heads
