"""`trf_textcat`: one prediction per sentence from its class vector, averaged over the sentences of the document.

Other heads classify other rows (`pooling.py`), and average over those.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import srsly
from spacy.language import Language
from spacy.scorer import Scorer
from spacy.tokens import Doc
from spacy.training import Example
from spacy.vocab import Vocab
from thinc.api import Linear, Model, chain, get_array_module, list2ragged, with_array
from thinc.types import Ragged

from .. import attributes
from ..weights.families import classifier_of
from ..weights.weights import BytesOfFolder
from .head import Head
from .hidden import hidden_layer, set_hidden
from .pooling import OF_CLASS_PIECES, POOLING, Rows

if TYPE_CHECKING:
    from .tok2vec import TransformerTok2Vec


@Language.factory(
    "trf_textcat",
    assigns=["doc.cats"],
    requires=["doc._.trf_last_hidden_state"],
    default_config={"exclusive_classes": True, "head": "class_vector", "seed": 0},
    default_score_weights={"cats_score": 1.0},
)
def make_textcat(
    nlp: Language,
    name: str,
    exclusive_classes: bool,
    head: Literal["class_vector", "pooler", "mean", "last_hidden", "native"],
    seed: int,
) -> "TrfTextCat":
    """Make the component for `nlp.add_pipe`.

    exclusive_classes: one label holds per document (softmax), or any number of them (a sigmoid each).
    head: what is classified: the class vector of each sentence, the model's pooler output for it, the mean of the
        tokens, or each row of the last hidden state. The document's scores are the mean over what is classified.
        `native` is what the model family's own classifier in Transformers has, a hidden layer included where it has
        one: such a head can be given back (`classifiers.give_back`).
    seed: for the first weights of each label.
    Raises ValueError where the head is unknown.
    """
    return TrfTextCat(nlp.vocab, name, exclusive_classes, head, seed)


class TrfTextCat(BytesOfFolder, Head):
    """Sets `doc.cats`: a probability for each label. A document without tokens gets zeros, as in spaCy's textcat."""

    def __init__(self, vocab: Vocab, name: str, exclusive_classes: bool, head: str, seed: int) -> None:
        self.vocab = vocab
        self.name = name
        self.seed = seed
        self.exclusive_classes = exclusive_classes
        self.head = head
        self.cfg: dict[str, Any] = {"labels": []}
        self.hidden: Model | None = None
        self._build()

    def _build(self, n_labels: int | None = None, width: int | None = None) -> None:
        self.linear: Model = Linear(n_labels, width)
        scorer = self.linear if self.hidden is None else chain(self.hidden, self.linear)
        self.model = chain(list2ragged(), with_array(scorer), mean_of_rows(self.exclusive_classes))

    def rows(self, doc: Doc) -> Rows:
        """What is classified, and its backward pass.

        A Doc may bring it along in `user_data["trf_rows"]`, as a frozen transformer gave it: array (n_rows, width).
        """
        if self.tok2vec is not None and self.tok2vec.spares(doc):
            return self.model.ops.asarray2f(doc.user_data[attributes.ROWS]), lambda d_rows: None
        return POOLING[self.pooling](doc)

    @property
    def pooling(self) -> str:
        """The name of what is classified."""
        if self.head != "native":
            return self.head
        assert self.tok2vec is not None
        return classifier_of(self.tok2vec.transformer.config).rows

    @property
    def reads_class_pieces_alone(self) -> bool:  # type: ignore[override]
        """So that training computes no more of the last layer."""
        return self.pooling in OF_CLASS_PIECES

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.cfg["labels"])

    @property
    def label_data(self) -> list[str]:
        return list(self.labels)

    def connect(self, tok2vec: "TransformerTok2Vec") -> None:
        super().connect(tok2vec)
        if self.head == "native" and self.hidden is None and tok2vec.model.shims:
            self.hidden = hidden_layer(tok2vec.transformer.config, self.seed)
        self._size()

    def add_label(self, label: str) -> int:
        """Returns 1, or 0 where the label is known. The head grows at once; no `initialize` is needed.

        Raises ValueError for a label that is no string.
        """
        if not isinstance(label, str):
            raise ValueError(f"a label is a string, not {label!r}")
        if label in self.labels:
            return 0
        self.cfg["labels"].append(label)
        self.vocab.strings.add(label)
        self._size()
        return 1

    def _size(self) -> None:
        """One row of weights for each label; those that are there stay as they are."""
        if self.tok2vec is None or not self.tok2vec.model.shims or not self.labels:
            return
        width, n_labels = self.tok2vec.width, len(self.labels)
        have = self.linear.get_dim("nO") if self.linear.has_param("W") else 0
        if have == n_labels:
            return
        new = [np.random.default_rng([self.seed, i]).normal(0, 0.02, width) for i in range(have, n_labels)]
        weights = self.model.ops.asarray2f(np.stack(new))
        bias = self.model.ops.alloc1f(n_labels)
        if have:
            weights = self.model.ops.xp.vstack([self.linear.get_param("W"), weights])
            bias[:have] = self.linear.get_param("b")
        self.set_weights(weights, bias)

    def set_weights(self, weights: Any, bias: Any) -> None:
        """weights: array (n_labels, width); bias: array (n_labels,)."""
        self._build(*weights.shape)
        self.linear.set_param("W", self.model.ops.asarray(weights))
        self.linear.set_param("b", self.model.ops.asarray(bias))

    def initialize(
        self,
        get_examples: Callable[[], Iterable[Example]],
        *,
        nlp: Language | None = None,
        labels: Iterable[str] | None = None,
    ) -> None:
        """Take the labels given, or all that the examples have."""
        if labels is None:
            labels = sorted({label for eg in get_examples() for label in eg.reference.cats})
        for label in labels:
            self.add_label(label)
        self._require_labels()

    def _require_labels(self) -> None:
        if len(self.labels) < (2 if self.exclusive_classes else 1):
            raise ValueError(
                f"component '{self.name}' has {len(self.labels)} label(s): exclusive classes need two, others one; "
                "call add_label, or initialize with examples that have cats"
            )

    def predict(self, docs: Iterable[Doc]) -> Any:
        """Array (n_docs, n_labels) of probabilities."""
        self._require_labels()
        return self.model.predict([self.rows(doc)[0] for doc in docs])

    def set_annotations(self, docs: Iterable[Doc], scores: Any) -> None:
        for doc, row in zip(docs, scores.tolist(), strict=True):
            doc.cats.update(zip(self.labels, row, strict=True))

    def learn(self, docs: list[Doc], examples: list[Example], drop: float) -> float:
        self._require_labels()
        rows = [self.rows(doc) for doc in docs]
        scores, backprop = self.model.begin_update([row for row, _ in rows])
        loss, d_scores = self.get_loss(examples, scores)
        for (_, backprop_rows), d_rows in zip(rows, backprop(d_scores), strict=True):
            backprop_rows(d_rows)
        if self.head == "native" and self.tok2vec and not classifier_of(self.tok2vec.transformer.config).bias:
            self.linear.set_grad("b", self.model.ops.alloc1f(len(self.labels)))
        return loss

    def logits(self, docs: Iterable[Doc]) -> list[Any]:
        """For each document an array (n_rows, n_labels): what softmax or sigmoid makes probabilities of."""
        self._require_labels()
        ragged, scorer, _ = self.model.layers
        return [scorer.predict(ragged.predict([self.rows(doc)[0]])).dataXd for doc in docs]

    def get_loss(self, examples: Iterable[Example], scores: Any) -> tuple[float, Any]:
        """Mean cross-entropy over documents, and its gradient of shape (n_docs, n_labels).

        A label that a document's cats do not name counts as 0 where classes are exclusive, and not at all otherwise.
        """
        xp = get_array_module(scores)
        cats = [eg.reference.cats for eg in examples]
        absent = 0.0 if self.exclusive_classes else np.nan
        rows = [[c.get(label, absent) if c else np.nan for label in self.labels] for c in cats]
        truth = xp.asarray(rows, dtype="float64").reshape(scores.shape)
        known = ~xp.isnan(truth)
        truth = xp.where(known, truth, 0)
        p = xp.clip(scores.astype("float64"), 1e-8, 1 - 1e-8)
        loss, gradient = -truth * xp.log(p), -truth / p
        if not self.exclusive_classes:
            loss, gradient = loss - (1 - truth) * xp.log(1 - p), gradient + (1 - truth) / (1 - p)
        n_docs = len(cats)
        return float((loss * known).sum() / n_docs), (gradient * known / n_docs).astype(scores.dtype)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        kwargs = {"labels": self.labels, "multi_label": not self.exclusive_classes, **kwargs}
        return Scorer.score_cats(examples, "cats", **kwargs)

    # Serialization.

    def to_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> None:
        from safetensors.numpy import save_file

        self._require_labels()
        Path(path).mkdir(exist_ok=True)
        srsly.write_json(Path(path) / "cfg", self.cfg)
        ops = self.model.ops
        params = {name: ops.to_numpy(self.linear.get_param(name)) for name in ("W", "b")}
        if self.hidden is not None:
            params |= {f"hidden.{k}": v.cpu().numpy() for k, v in self.hidden.shims[0]._model.state_dict().items()}
        save_file(params, Path(path) / "head.safetensors")

    def from_disk(self, path: str | Path, *, exclude: Iterable[str] = ()) -> "TrfTextCat":
        """Raises ValueError where a native head stands in no pipeline with its transformer."""
        from safetensors.numpy import load_file

        self.cfg = srsly.read_json(Path(path) / "cfg")
        for label in self.labels:
            self.vocab.strings.add(label)
        params = load_file(Path(path) / "head.safetensors")
        hidden = {name.removeprefix("hidden."): params.pop(name) for name in list(params) if "." in name}
        if hidden:
            if self.tok2vec is None:
                raise ValueError(f"component '{self.name}' needs 'trf_tok2vec' before it in the pipeline")
            self.hidden = hidden_layer(self.tok2vec.transformer.config, self.seed)
            set_hidden(self.hidden, hidden)
        self.set_weights(params["W"], params["b"])
        return self


def mean_of_rows(exclusive: bool) -> Model[Ragged, Any]:
    """Softmax (or sigmoid) of each row of logits, then the mean over the rows of each document."""
    return Model("mean_of_rows", _mean_of_rows, attrs={"exclusive": exclusive})


def _mean_of_rows(model: Model, logits: Ragged, is_train: bool) -> tuple[Any, Callable]:
    exclusive, ops = model.attrs["exclusive"], model.ops
    p = ops.softmax(logits.dataXd) if exclusive else ops.sigmoid(logits.dataXd)

    def backprop(d_mean: Any) -> Ragged:
        d_p = ops.backprop_reduce_mean(d_mean, logits.lengths)
        d_logits = p * (d_p - (d_p * p).sum(axis=-1, keepdims=True)) if exclusive else d_p * p * (1 - p)
        return Ragged(d_logits, logits.lengths)

    # Thinc's reduce_mean reads past the end where there is no row at all.
    mean = ops.reduce_mean(p, logits.lengths) if len(p) else ops.alloc2f(len(logits.lengths), p.shape[1])
    return mean, backprop
