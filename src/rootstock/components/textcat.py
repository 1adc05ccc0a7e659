"""`trf_textcat`: text classification. Each sentence's class vector is classified, and the probabilities are averaged.

Other settings of `head` classify and average over other rows (`pooling.py`).
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

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
from ..weights.weights import ToBytesMixin
from .backward import BackwardPass, Transformer
from .contrast import contrast, overlap
from .head import Head
from .hidden import hidden_layer, set_hidden
from .pooling import CLASS_PIECE_POOLING, POOLING, Rows


@Language.factory(
    "trf_textcat",
    assigns=["doc.cats"],
    requires=["doc._.trf_last_hidden_state"],
    default_config={
        "exclusive_classes": True,
        "head": "class_vector",
        "threshold": None,
        "label_smoothing": 0.0,
        "seed": 0,
    },
    default_score_weights={"cats_score": 1.0},
)
def make_textcat(
    nlp: Language,
    name: str,
    exclusive_classes: bool,
    head: Literal["class_vector", "pooler", "mean", "last_hidden", "native"],
    threshold: float | None,
    label_smoothing: float,
    seed: int,
) -> "TrfTextCat":
    """Make the component for `nlp.add_pipe`.

    exclusive_classes: exactly one label per document (softmax), or any number of labels (sigmoid).
    head: the classified rows: class_vector and pooler (the class vector or pooler output of each sentence), mean (of
        the tokens), or last_hidden (each row of the last hidden state). Scores are averaged over the rows.
        native has the architecture of the model family's classifier in Transformers, with its hidden layer if it has
        one, so that `classifiers.to_transformers` can save it.
    threshold: the probability from which scoring counts a label as predicted; None: 0.5. With exclusive classes, as
        in spaCy, it has no effect: the most probable label is predicted.
    label_smoothing: the share of each target in training that is spread evenly, over all labels or over yes and no
        (Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision").
    seed: for the initial weights of each label.
    Raises ValueError if head is none of these.
    """
    return TrfTextCat(nlp.vocab, name, exclusive_classes, head, threshold, label_smoothing, seed)


class TrfTextCat(ToBytesMixin, Head):
    """Sets `doc.cats`: a probability for each label. A document without tokens gets zeros, as in spaCy's textcat.

    `thresholds` may be changed, and is saved. Two attributes are for training, and are not saved:

    - `label_weights`: the weight of documents with a label; 1.0 for labels that it lacks.
    - `contrastive`: whether the transformer learns to separate the vectors of documents with different labels
      (`contrast.py`). The output layer does not learn then: call `set_weights` afterwards.
    """

    def __init__(
        self,
        vocab: Vocab,
        name: str,
        exclusive_classes: bool,
        head: str,
        threshold: float | None,
        label_smoothing: float,
        seed: int,
    ) -> None:
        self.vocab = vocab
        self.name = name
        self.seed = seed
        self.exclusive_classes = exclusive_classes
        self.head = head
        self.label_smoothing = label_smoothing
        self.label_weights: dict[str, float] = {}
        self.contrastive = False
        self.cfg: dict[str, Any] = {"labels": [], "threshold": threshold, "thresholds": {}}
        self.hidden: Model | None = None
        self._build()

    def _build(self, n_labels: int | None = None, width: int | None = None) -> None:
        self.linear: Model = Linear(n_labels, width)
        scorer = self.linear if self.hidden is None else chain(self.hidden, self.linear)
        self.model = chain(list2ragged(), with_array(scorer), mean_of_rows(self.exclusive_classes))

    def rows(self, doc: Doc) -> Rows:
        """The rows that are classified, (n_rows, width), and their backward pass.

        A Doc may have precomputed rows in `user_data["trf_rows"]`: they are used if the transformer is frozen.
        """
        if self.tok2vec is not None and self.tok2vec.skips(doc):
            return self.model.ops.asarray2f(doc.user_data[attributes.ROWS]), lambda d_rows: None
        return POOLING[self.pooling](doc)

    @property
    def pooling(self) -> str:
        """The name of the pooling function in `pooling.POOLING`."""
        if self.head != "native":
            return self.head
        assert self.tok2vec is not None
        return classifier_of(self.tok2vec.transformer.config).pooling

    @property
    def reads_only_class_pieces(self) -> bool:  # type: ignore[override]
        """Whether training may compute the last layer only for class pieces."""
        return self.pooling in CLASS_PIECE_POOLING

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.cfg["labels"])

    @property
    def thresholds(self) -> dict[str, float]:
        """The probability from which a label is predicted, of labels that have their own."""
        return self.cfg.setdefault("thresholds", {})  # an older pipeline has none

    def threshold_of(self, label: str) -> float:
        """The probability from which a label is predicted, if classes are not exclusive."""
        return self.thresholds.get(label, 0.5 if self.cfg.get("threshold") is None else self.cfg["threshold"])

    def decide(self, doc: Doc) -> list[str]:
        """The labels that `doc.cats` stands for: the most probable one, or all from their thresholds on."""
        scored = [label for label in self.labels if label in doc.cats]
        if self.exclusive_classes:
            return [max(scored, key=doc.cats.__getitem__)] if any(doc.cats[label] for label in scored) else []
        return [label for label in scored if doc.cats[label] >= self.threshold_of(label)]

    @property
    def label_data(self) -> list[str]:
        return list(self.labels)

    def connect(self, tok2vec: Transformer, backward: BackwardPass) -> None:
        super().connect(tok2vec, backward)
        if self.head == "native" and self.hidden is None and tok2vec.model.shims:
            self.hidden = hidden_layer(tok2vec.transformer.config, self.seed)
        self._add_rows()

    def add_label(self, label: str) -> int:
        """Add a label, with new weights; `initialize` is not needed.

        RETURNS: 1, or 0 if the label exists.
        Raises ValueError if the label is not a string.
        """
        if not isinstance(label, str):
            raise ValueError(f"a label must be a string, not {label!r}")
        if label in self.labels:
            return 0
        self.cfg["labels"].append(label)
        self.vocab.strings.add(label)
        self._add_rows()
        return 1

    def _add_rows(self) -> None:
        """Add a row of weights for each new label; existing rows do not change."""
        if self.tok2vec is None or not self.tok2vec.model.shims or not self.labels:
            return
        width, n_labels = self.tok2vec.width, len(self.labels)
        n_existing = self.linear.get_dim("nO") if self.linear.has_param("W") else 0
        if n_existing == n_labels:
            return
        new = [np.random.default_rng([self.seed, i]).normal(0, 0.02, width) for i in range(n_existing, n_labels)]
        weights = self.model.ops.asarray2f(np.stack(new))
        bias = self.model.ops.alloc1f(n_labels)
        if n_existing:
            weights = self.model.ops.xp.vstack([self.linear.get_param("W"), weights])
            bias[:n_existing] = self.linear.get_param("b")
        self.set_weights(weights, bias)

    def set_weights(self, weights: Any, bias: Any) -> None:
        """Set the weights of the output layer.

        weights: array (n_labels, width).
        bias: array (n_labels,).
        """
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
        """Start with new weights, for the labels so far and the given ones, or all labels in the examples."""
        self.hidden = None
        self.thresholds.clear()
        self._build()
        if self.tok2vec is not None:
            self.connect(self.tok2vec, self.backward)
        if labels is None:
            labels = sorted({label for eg in get_examples() for label in eg.reference.cats})
        for label in labels:
            self.add_label(label)
        self._require_labels()

    def _require_labels(self) -> None:
        if len(self.labels) < (2 if self.exclusive_classes else 1):
            raise ValueError(
                f"component '{self.name}' has {len(self.labels)} label(s), but needs at least two with exclusive "
                "classes, else one: call add_label, or initialize with examples that have cats"
            )

    def predict(self, docs: Iterable[Doc]) -> Any:
        """The probabilities, array (n_docs, n_labels)."""
        self._require_labels()
        return self.model.predict([self.rows(doc)[0] for doc in docs])

    def set_annotations(self, docs: Iterable[Doc], scores: Any) -> None:
        for doc, row in zip(docs, scores.tolist(), strict=True):
            doc.cats.update(zip(self.labels, row, strict=True))

    def learn(self, docs: list[Doc], examples: list[Example], drop: float) -> float:
        self._require_labels()
        rows = [self.rows(doc) for doc in docs]
        if self.contrastive:
            return self._learn_contrast(rows, self._truth(examples))
        scores, backprop = self.model.begin_update([row for row, _ in rows])
        loss, d_scores = self.get_loss(examples, scores)
        for (_, backprop_rows), d_rows in zip(rows, backprop(d_scores), strict=True):
            backprop_rows(d_rows)
        if self.head == "native" and self.tok2vec and not classifier_of(self.tok2vec.transformer.config).bias:
            self.linear.set_grad("b", self.model.ops.alloc1f(len(self.labels)))
        return loss

    def _learn_contrast(self, rows: list[Rows], truth: np.ndarray) -> float:
        """The loss of the documents' vectors, each the mean of its rows; adds its gradient."""
        kept = [i for i, (row, _) in enumerate(rows) if len(row)]
        xp = get_array_module(rows[kept[0]][0])
        vectors = xp.stack([rows[i][0].mean(axis=0) for i in kept])
        loss, d_vectors = contrast(vectors, xp.asarray(overlap(truth[kept])))
        for i, d_vector in zip(kept, d_vectors, strict=True):
            row, backprop_rows = rows[i]
            backprop_rows(xp.broadcast_to(d_vector / len(row), row.shape))
        return loss

    def _truth(self, examples: Iterable[Example]) -> np.ndarray:
        """The labels, array (n_docs, n_labels) of 0 to 1; NaN for one that is missing.

        A label missing in a document's cats counts as 0 if classes are exclusive.
        """
        missing = 0.0 if self.exclusive_classes else np.nan
        cats = [eg.reference.cats for eg in examples]
        rows = [[c.get(label, missing) if c else np.nan for label in self.labels] for c in cats]
        return np.array(rows, dtype="float64").reshape(len(rows), len(self.labels))

    def logits(self, docs: Iterable[Doc]) -> list[Any]:
        """For each document an array (n_rows, n_labels): the input of softmax or sigmoid.

        Raises ValueError if the component has too few labels.
        """
        self._require_labels()
        ragged, scorer, _ = self.model.layers
        return [scorer.predict(ragged.predict([self.rows(doc)[0]])).dataXd for doc in docs]

    def get_loss(self, examples: Iterable[Example], scores: Any) -> tuple[float, Any]:
        """The cross-entropy, averaged over documents, and its gradient (n_docs, n_labels).

        Documents with a label are weighted by `label_weights`.
        A label missing in a document's cats counts as 0 if classes are exclusive, and is ignored otherwise. A document
        without cats is ignored, and so is one without tokens: its scores are zero.
        """
        xp = get_array_module(scores)
        truth = xp.asarray(self._truth(examples))
        annotated = ~xp.isnan(truth) & scores.any(axis=1, keepdims=True)
        truth = xp.where(annotated, truth, 0)
        uniform = truth.mean(axis=1, keepdims=True) if self.exclusive_classes else 0.5
        truth += self.label_smoothing * (uniform - truth)
        p = xp.clip(scores.astype("float64"), 1e-8, 1 - 1e-8)
        weights = xp.asarray([self.label_weights.get(label, 1.0) for label in self.labels])
        loss, gradient = -weights * truth * xp.log(p), -weights * truth / p
        if not self.exclusive_classes:
            loss, gradient = loss - (1 - truth) * xp.log(1 - p), gradient + (1 - truth) / (1 - p)
        n_docs = len(truth)
        return float((loss * annotated).sum() / n_docs), (gradient * annotated / n_docs).astype(scores.dtype)

    def score(self, examples: Iterable[Example], **kwargs: Any) -> dict[str, Any]:
        settings = {"multi_label": not self.exclusive_classes, "threshold": self.cfg.get("threshold")}
        if self.thresholds and not self.exclusive_classes and "threshold" not in kwargs:
            settings |= {"threshold": 0.5, "getter": self._relative_to_thresholds}
        kwargs = {"labels": self.labels, **settings, **kwargs}
        return Scorer.score_cats(examples, "cats", **kwargs)

    def _relative_to_thresholds(self, doc: Doc, attribute: str) -> dict[str, float]:
        """Scores in the same order, 0.5 where the threshold is: spaCy's scorer has one threshold for all labels."""

        def relative(p: float, threshold: float) -> float:
            if p in (0, 1):  # as gold labels are
                return p
            return 0.5 * p / threshold if p < threshold else 1 - 0.5 * (1 - p) / (1 - threshold)

        return {label: relative(p, self.threshold_of(label)) for label, p in doc.cats.items()}

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
        """Load labels and weights.

        Raises ValueError if the head has a hidden layer and the pipeline has no `trf_tok2vec` before it.
        """
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
    """A layer that computes softmax (or sigmoid) of each row of logits, then the mean over each document's rows.

    exclusive: softmax instead of sigmoid.
    """
    return Model("mean_of_rows", _mean_of_rows, attrs={"exclusive": exclusive})


def _mean_of_rows(model: Model, logits: Ragged, is_train: bool) -> tuple[Any, Callable]:
    exclusive, ops = model.attrs["exclusive"], model.ops
    p = ops.softmax(logits.dataXd) if exclusive else ops.sigmoid(logits.dataXd)

    def backprop(d_mean: Any) -> Ragged:
        d_p = ops.backprop_reduce_mean(d_mean, logits.lengths)
        d_logits = p * (d_p - (d_p * p).sum(axis=-1, keepdims=True)) if exclusive else d_p * p * (1 - p)
        return Ragged(d_logits, logits.lengths)

    # Thinc's reduce_mean reads out of bounds if there are no rows.
    mean = ops.reduce_mean(p, logits.lengths) if len(p) else ops.alloc2f(len(logits.lengths), p.shape[1])
    return mean, backprop
