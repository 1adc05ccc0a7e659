"""`trf_tok2vec`: run the transformer and set `doc.tensor`, vectors and the `._.trf_*` outputs."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from spacy.language import Language
from spacy.pipeline import TrainablePipe
from spacy.pipeline.tok2vec import Tok2VecListener
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Model, Optimizer

from .. import attributes
from ..pieces.pieces import Pieces, model_name
from ..training.learning_rates import LearningRates
from ..weights.weights import ToBytesMixin, load_model, omit_weights_paths, save_model
from .backward import BackwardPass, running_update
from .head import Head
from .listener import Link, listeners_of
from .pooling import NO_OUTPUT

if TYPE_CHECKING:
    from ..encoder.batch import Encoded

Precision = Literal["auto", "fp32", "bf16", "fp16"]


@Language.factory(
    "trf_tok2vec",
    assigns=["doc.tensor", "doc._.trf_last_hidden_state", "doc._.trf_pooler_output"],
    requires=["doc._.trf_word_pieces"],
    default_config={
        "model": None,
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
    model: None,
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

    model: always None. spaCy's `replace_listeners`, which is refused, reads it.
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
        self.model = Model("transformer", _no_weights, attrs={"replace_listener_cfg": _refuse})
        self.listener_map: dict[str, list[Model]] = {}
        self.heads: dict[str, list[Head | Link]] = {}  # what adds gradients, by component; also of disabled ones
        self.keeps_tensor = False  # whether listeners follow: they need the tensor, whatever else writes doc.tensor
        self.shares_tensor = False  # whether listeners to spaCy's own tok2vec follow: they read its doc.tensor
        self.backward = BackwardPass(self._step)
        self.is_trained = False  # since the weights were loaded

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
        """Load the weights anew if they have been trained since they were loaded.

        Warns if that cannot be done, because the folder is gone or the component was loaded from bytes.
        """
        if not self.is_trained:
            return
        if (self.folder / "model.safetensors").is_file():
            self.read_weights(self.folder)
        else:
            warnings.warn(
                f"component '{self.name}' keeps its trained weights: those that it was loaded with are no longer in "
                f"{self.folder}",
                stacklevel=2,
            )

    # Prediction.

    def has_annotated(self, doc: Doc) -> bool:
        """Whether the outputs of a Doc are this component's."""
        return attributes.OUTPUTS in doc.user_data and doc.user_data.get(attributes.AUTHOR) == self.name

    def skips(self, doc: Doc) -> bool:
        """Whether a Doc needs no forward pass: the transformer is frozen, and the Doc has precomputed features."""
        return attributes.ROWS in doc.user_data and not self.trainable

    def predict(self, docs: Iterable[Doc]) -> "list[Encoded | None]":
        """Each document's output; None if the document is skipped."""
        docs = list(docs)
        pieces = [self._pieces(doc) for doc in docs if not self.skips(doc)]
        encoded = iter(self.model.predict(pieces) if pieces else [])
        return [None if self.skips(doc) else next(encoded) for doc in docs]

    def set_annotations(self, docs: Iterable[Doc], encoded: "Sequence[Encoded | None]") -> None:
        for doc, output in zip(docs, encoded, strict=True):
            if output is None:
                continue
            if not (self.shares_tensor and len(doc.tensor) and doc.tensor is not attributes.tensor(doc)):
                doc.tensor = np.zeros((0, 0), "f") if output.tensor is None else output.tensor
            if self.has_annotated(doc):
                doc.user_data.get(attributes.GRADIENTS, {}).clear()  # `update` keeps a reference to it
            else:  # another transformer keeps it
                doc.user_data.pop(attributes.GRADIENTS, None)
            doc.user_data[attributes.AUTHOR] = self.name
            doc.user_data[attributes.OUTPUTS] = {
                name: value
                for name, value in output._asdict().items()
                if value is not None and (name != "tensor" or self.keeps_tensor)
            }
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
        `trf_class_states`, but no `doc.tensor`. Documents without pieces have nothing to learn from.

        drop: the dropout rate of every layer.
        """
        losses = {} if losses is None else losses
        losses.setdefault(self.name, 0.0)  # there is no loss here, but spaCy's loggers expect an entry
        docs = [eg.predicted for eg in examples]
        self.backward.complete()
        heads = self._heads_in_update()
        pieces = [self._pieces(doc) for doc in docs] if heads else []
        backprop = None
        if any(len(one.ids) for one in pieces):
            self.is_trained = True
            from ..encoder.kernels.dropout import set_dropout

            set_dropout(self.transformer, drop)
            self.model.attrs["class_pieces_only"] = self._needs_only_class_pieces()
            encoded, backprop = self.model.begin_update(pieces)
        else:
            encoded = self.predict(docs)
        self.set_annotations(docs, encoded)
        if backprop is None:
            self.backward.wait_for(set(), None)
        else:
            class_only = [output.class_states is not None for output in encoded]
            # Another transformer may annotate the documents before the last head has added its gradient.
            gradients = [doc.user_data.setdefault(attributes.GRADIENTS, {}) for doc in docs]
            self.backward.wait_for(
                heads, lambda: backprop([_gradients(*args) for args in zip(gradients, pieces, class_only, strict=True)])
            )
        return losses

    def _pieces(self, doc: Doc) -> Pieces:
        if attributes.has_only_features(doc):
            raise ValueError(
                f"component '{self.name}' is trainable, but a Doc has no text, only precomputed features "
                f"('{attributes.ROWS}'): set trainable: false, or pass documents with text"
            )
        return Pieces.of(doc, model=model_name(self.transformer.config) if self.model.shims else None)

    def _heads_in_update(self) -> set[Head | Link]:
        """The heads that the running update will update; none if the transformer is frozen.

        This connects them, too: spaCy does so only when components are added or loaded, only with those that are
        enabled then, and a component that two pipelines share stays connected to the last.
        """
        heads, (nlp, exclude) = self.heads, running_update()
        pipeline = [] if nlp is None else nlp.pipeline
        components = [component for _, component in pipeline]
        if self in components:
            heads = {}
            for name, component in pipeline[components.index(self) + 1 :]:
                if isinstance(component, TransformerTok2Vec):
                    break
                self.find_listeners(component)
                if name not in exclude:
                    heads[name] = heads_of(component)
        return {head for some in heads.values() for head in some if head.tok2vec is self and self.trainable}

    def _needs_only_class_pieces(self) -> bool:
        """Whether no listening component, even one excluded from this update, reads other pieces."""
        return all(head.reads_only_class_pieces for name in self.listener_map for head in self.heads[name])

    def annotate(self, docs: list[Doc]) -> None:
        """Set the outputs of documents that this component's `update` has not processed.

        Raises ValueError if the pipeline that is being updated does not have this component.
        """
        nlp, _ = running_update()
        if docs and nlp is not None and self not in [component for _, component in nlp.components]:
            raise ValueError(NO_OUTPUT)
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
        models = self.listener_map.setdefault(component_name, [])
        if listener not in models:
            models.append(listener)

    def remove_listener(self, listener: Model, component_name: str) -> bool:
        return bool(self.listener_map.pop(component_name, None))

    def find_listeners(self, component: Any) -> None:
        heads, listeners = heads_of(component), listeners_of(component)
        if heads:
            self.heads[component.name] = heads
        for head in heads:
            head.connect(self, self.backward)
        for model in [component.model] if isinstance(component, Head) else listeners:
            self.add_listener(model, component.name)
        if self.model.shims:
            for listener in listeners:
                listener.set_dim("nO", self.width)
        model = getattr(component, "model", None)
        self.shares_tensor |= isinstance(model, Model) and any(isinstance(one, Tok2VecListener) for one in model.walk())
        self.keeps_tensor |= self.shares_tensor or bool(listeners)

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
        self.model.attrs["replace_listener_cfg"] = _refuse
        self.folder, self.is_trained = folder, False

    def __setstate__(self, state: Any) -> None:
        from ..encoder.kernels import attention

        super().__setstate__(state)
        attention.can_be_used()  # makes it known to Transformers in the process that unpickles this component

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        save_model(self.transformer, path, self.saved_precision)
        if self.mix is not None:
            self.mix.write(Path(path) / MIX_FILE)

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "TransformerTok2Vec":
        self.read_weights(Path(path))
        return self


MIX_FILE = "layer_mix.safetensors"


def heads_of(component: Any) -> list[Head | Link]:
    """What adds gradients in a component: a Head, and the links of listener layers."""
    return [*([component] if isinstance(component, Head) else []), *(m.shims[0] for m in listeners_of(component))]


def _refuse(tok2vec: Any, listener: Any) -> Any:
    """Called by spaCy's `replace_listeners` for the config of a copy of this component's model."""
    raise ValueError(
        "replace_listeners does not work with trf_tok2vec: the component would need a tokenizer of its own, too. "
        "Source its 'trf_wordpiecer' and 'trf_tok2vec' with it, under other names, directly before it"
    )


def _no_weights(model: Model, docs: Any, is_train: bool) -> Any:
    raise ValueError("trf_tok2vec has no weights: add it with config={'weights': FOLDER}")


def _gradients(gradients: dict[str, Any], pieces: Pieces, class_pieces_only: bool) -> tuple[Any, Any]:
    """The gradients that heads have added for the states and the pooler output; None for zero."""
    states = gradients.get("last_hidden_state")
    if class_pieces_only:  # heads have read all pieces if trf_tok2vec has annotated the Doc since
        states = gradients.get("class_states") if states is None else states[pieces.window_class.tolist()]
    return states, gradients.get("pooler_output")
