"""`trf_tok2vec`: run the transformer and set `doc.tensor`, vectors and the `._.trf_*` outputs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
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
from ..weights.weights import ToBytesMixin, load_model, omit_weights_paths, save_model
from .backward import BackwardPass, heads_in_update
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
        "kernels": True,
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
    kernels: bool,
) -> "TransformerTok2Vec":
    """Make the component for `nlp.add_pipe`.

    weights: folder with config.json and model.safetensors; None if the component will be loaded from disk or bytes.
    trainable: whether training updates the transformer.
    train_layers: train only the last N layers, and what follows them; None: all layers and the embeddings; 0: none
        (with mix_layers, train only the mix).
    learning_rate_scale: multiplier of the optimizer's learning rate for the transformer.
    layer_decay: the learning rate of each layer relative to the layer above (Howard and Ruder 2018, "Universal
        Language Model Fine-tuning for Text Classification", discriminative fine-tuning).
    words_per_batch: maximum number of wordpieces, padding included, in a forward pass.
    precision: dtype of matrix products: fp32, bf16, fp16, or auto (bf16 if the hardware is fast at it, else fp32).
        Weights are fp32 in any case.
    saved_precision: dtype of the saved weights; bf16 and fp16 take half the space.
    mix_layers: compute `trf_last_hidden_state` and `doc.tensor` from a learned mix of all layers (Peters et al. 2018,
        "Deep contextualized word representations"). The pooler still reads the last layer.
    hidden_states, attentions: whether to set `doc._.trf_all_hidden_states` and `doc._.trf_all_attentions`.
    kernels: whether to use the faster operations of `rootstock.encoder.kernels`; false: plain PyTorch, the reference.
    Raises ValueError if config.json or model.safetensors is not found, or weights are missing.
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
        encoder={"hidden_states": hidden_states, "attentions": attentions, "kernels": kernels},
    )
    if weights is not None:
        pipe.read_weights(Path(weights))
        omit_weights_paths(nlp)
    return pipe


class TransformerTok2Vec(ToBytesMixin, TrainablePipe):
    """The transformer as a component.

    In training each head adds its gradient to `doc._.trf_d_*`. The last one starts a single backward pass for all.
    """

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
        encoder: dict[str, bool],
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
        self.encoder = encoder  # more settings of make_encoder
        self.model = Model("transformer", _no_weights)
        self.listener_map: dict[str, list[Model]] = {}
        self.heads: dict[str, Head] = {}  # the listening components that are subclasses of Head
        self.backward = BackwardPass(self._step)

    @property
    def transformer(self) -> Any:
        """The PyTorch model.

        Raises ValueError if no weights are loaded.
        """
        if not self.model.shims:
            raise ValueError(f"component '{self.name}' has no weights: add it with config={{'weights': FOLDER}}")
        return self.model.shims[0]._model

    @property
    def mix(self) -> Any:
        """The PyTorch module of mix_layers, or None."""
        return next((shim._model for shim in self.model.shims[1:]), None)

    @property
    def width(self) -> int:
        """Size of a piece's vector."""
        return self.transformer.config.hidden_size

    @property
    def is_trainable(self) -> bool:
        return self.trainable

    def initialize(self, get_examples: Any, *, nlp: Language | None = None) -> None:
        """Does nothing: the weights are pretrained."""

    # Prediction.

    def skips(self, doc: Doc) -> bool:
        """Whether a Doc needs no forward pass: the transformer is frozen, and the Doc has precomputed features."""
        return attributes.ROWS in doc.user_data and not self.trainable

    def predict(self, docs: Iterable[Doc]) -> "list[Encoded | None]":
        """Each document's output; None if the document is skipped."""
        docs = list(docs)
        pieces = [Pieces.of(doc) for doc in docs if not self.skips(doc)]
        encoded = iter(self.model.predict(pieces) if pieces else [])
        return [None if self.skips(doc) else next(encoded) for doc in docs]

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
        """Run the forward pass for the heads that follow.

        If all of them read only class pieces, the last layer is computed only for these: documents then have
        `trf_class_states`, but no `doc.tensor`.

        drop: the dropout rate of every layer.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)  # there is no loss here, but spaCy's loggers expect an entry
        docs = [eg.predicted for eg in examples]
        self.backward.complete()
        heads = heads_in_update(set(self.listener_map)) if self.trainable else set()
        backprop = None
        if heads:
            from ..encoder.kernels.dropout import set_dropout

            set_dropout(self.transformer, drop)
            self.model.attrs["class_pieces_only"] = self._needs_only_class_pieces()
            encoded, backprop = self.model.begin_update([self._pieces(doc) for doc in docs])
        else:
            encoded = self.predict(docs)
        self.set_annotations(docs, encoded)
        if backprop is None:
            self.backward.wait_for(set(), None)
        else:
            class_only = [output.class_states is not None for output in encoded]
            self.backward.wait_for(
                heads, lambda: backprop([_gradients(*args) for args in zip(docs, class_only, strict=True)])
            )
        return losses

    def _pieces(self, doc: Doc) -> Pieces:
        if attributes.has_only_features(doc):
            raise ValueError(
                f"component '{self.name}' is trainable, but a Doc has no text, only precomputed features "
                f"('{attributes.ROWS}'): set trainable: false, or pass documents with text"
            )
        return Pieces.of(doc)

    def _needs_only_class_pieces(self) -> bool:
        """Whether no listening component, even one excluded from this update, reads other pieces."""
        heads = [self.heads.get(name) for name in self.listener_map]
        return all(head is not None and head.reads_only_class_pieces for head in heads)

    def annotate(self, docs: list[Doc]) -> None:
        """Set the outputs of documents that this component's `update` has not processed."""
        self.set_annotations(docs, self.predict(docs))

    def finish_update(self, sgd: Optimizer) -> None:
        self.backward.finish_update(sgd)

    def _step(self, sgd: Optimizer) -> None:
        if self.model.shims and self.trainable:
            self.model.attrs["loss_scale"].unscale(self.model)
            self.model.finish_update(sgd)

    # spaCy's ListenedToComponent protocol: spaCy tells this component which components follow.

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
            component.connect(self, self.backward)
        for listener in listeners_of(component):
            self.heads.pop(component.name, None)
            self.add_listener(listener, component.name)
            listener.shims[0].connect(self, self.backward, component.name)
            if self.model.shims:
                listener.set_dim("nO", self.width)

    # Serialization: the folder is a weights folder without the tokenizer.

    def read_weights(self, folder: Path) -> None:
        """Load the weights in a folder.

        Raises ValueError if config.json or model.safetensors is not found, or weights are missing.
        """
        from ..encoder.encoder import make_encoder

        net, mix = load_model(folder), None
        if self.mix_layers:
            from ..encoder.layer_mix import LayerMix

            mix = LayerMix.read(folder / MIX_FILE, net.config.num_hidden_layers + 1)
        self.model = make_encoder(net, self.words_per_batch, self.precision, self.rates, mix=mix, **self.encoder)

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        save_model(self.transformer, path, self.saved_precision)
        if self.mix is not None:
            self.mix.write(Path(path) / MIX_FILE)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "TransformerTok2Vec":
        self.read_weights(Path(path))
        return self


MIX_FILE = "layer_mix.safetensors"


def _no_weights(model: Model, docs: Any, is_train: bool) -> Any:
    raise ValueError("trf_tok2vec has no weights: add it with config={'weights': FOLDER}")


def _gradients(doc: Doc, class_pieces_only: bool) -> tuple[Any, Any]:
    """The gradients that heads have added for the states and the pooler output; None for zero."""
    gradients = doc.user_data.get(attributes.GRADIENTS, {})
    states = gradients.get("last_hidden_state")
    if class_pieces_only:  # heads have read all pieces if trf_tok2vec has annotated the Doc since
        class_pieces = Pieces.of(doc).window_class.tolist()
        states = gradients.get("class_states") if states is None else states[class_pieces]
    return states, gradients.get("pooler_output")
