"""What is odd about a model family. Everything else is read off its config and its tokenizer."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Classifier:
    """Where the family's `...ForSequenceClassification` of Transformers has its head: module names."""

    output: str = "classifier"  # from rows to logits
    rows: str = "class_vector"  # what it classifies: a name in pooling.POOLING
    dense: str | None = None  # a layer before the output, as wide as the rows
    activation: str = "tanh"  # after it, by its name in Transformers
    norm: str | None = None  # after that
    bias: bool = True  # of the output


@dataclass(frozen=True)
class Family:
    """Settings of a model type, as `config.json` names it."""

    reserved_positions: int = 0  # rows of the position table that no piece takes: RoBERTa's count begins after padding
    class_position: int | None = (
        None  # of the piece that speaks for a window, where the tokenizer's cls_token is not it
    )
    token_types: bool = True  # whether the model was pretrained with those that its tokenizer gives
    unpadded: bool = False  # whether windows can lie end to end: positions are an input, and attention knows no others
    after_attention: str | None = None  # the module of layer {} that takes what its attention gives
    classifier: Classifier | None = None


POOLED = Family(classifier=Classifier(rows="pooler"))
DENSE = Classifier("classifier.out_proj", dense="classifier.dense")
AFTER = "encoder.layer.{}.attention.output"
ROBERTA = Family(reserved_positions=2, unpadded=True, after_attention=AFTER, classifier=DENSE)
FAMILIES: dict[str, Family] = {
    "albert": POOLED,
    "bert": replace(POOLED, unpadded=True, after_attention=AFTER),
    "camembert": ROBERTA,
    "deberta-v2": Family(classifier=Classifier(dense="pooler.dense", activation="gelu")),
    "distilbert": Family(
        unpadded=True,
        after_attention="transformer.layer.{}.sa_layer_norm",
        classifier=Classifier(dense="pre_classifier", activation="relu"),
    ),
    "electra": Family(unpadded=True, after_attention=AFTER, classifier=replace(DENSE, activation="gelu")),
    "gpt2": Family(classifier=Classifier("score", bias=False)),
    "modernbert": Family(classifier=Classifier(dense="head.dense", activation="gelu", norm="head.norm")),
    "mpnet": replace(ROBERTA, unpadded=False, after_attention=None),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "xlnet": Family(classifier=Classifier("logits_proj", dense="sequence_summary.summary")),
    # XLM's cls_token is </s>, its classifier reads the first piece; it adds the vector of piece 0 or 1 as a token type.
    "xlm": Family(class_position=0, token_types=False, classifier=Classifier("sequence_summary.summary")),
}

UNLIMITED = 512  # pieces in a window where neither config nor tokenizer sets a limit: attention is quadratic


def family_of(config: Any) -> Family:
    """What the table says of a model type, the defaults where it says nothing. config: of Transformers."""
    return FAMILIES.get(config.model_type, Family())


def classifier_of(config: Any) -> Classifier:
    """Raises ValueError for a model whose classifier is not in the table, or is configured to be another."""
    found = family_of(config).classifier
    if found is None:
        known = ", ".join(sorted(name for name, family in FAMILIES.items() if family.classifier))
        raise ValueError(f"the classifier of model type '{config.model_type}' is not known here; known are: {known}")
    for setting, value in {
        "classifier_pooling": "cls",
        "summary_proj_to_labels": True,
        "summary_use_proj": True,
    }.items():
        if getattr(config, setting, value) != value:
            raise ValueError(f"config.json: a classifier with {setting}={getattr(config, setting)!r} is not known here")
    return found


def max_pieces(config: Any, tokenizer: Any) -> int:
    """The most pieces that the model takes at a time, boundary pieces included."""
    positions = getattr(config, "max_position_embeddings", None) or 0
    limits = [positions - family_of(config).reserved_positions, tokenizer.model_max_length]
    known = [limit for limit in limits if 0 < limit < 10**9]
    return min(known, default=UNLIMITED)
