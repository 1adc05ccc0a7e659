"""Differences between model families that neither the config nor the tokenizer tells."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Classifier:
    """The classification head of a family's `...ForSequenceClassification` in Transformers, by module names."""

    output: str = "classifier"  # the output layer, which computes the logits
    pooling: str = "class_vector"  # the head's input: a name in pooling.POOLING
    dense: str | None = None  # a hidden layer before the output, of the same width
    activation: str = "tanh"  # after the hidden layer, by its name in Transformers
    norm: str | None = None  # layer norm after the activation
    bias: bool = True  # whether the output layer has a bias


@dataclass(frozen=True)
class Family:
    """Properties of a model type (`model_type` in `config.json`)."""

    class_position: int | None = None  # position of the class piece, if it is not the tokenizer's cls_token
    token_types: bool = True  # whether the model was pretrained with the tokenizer's token types
    unpadded: bool = False  # whether windows can be concatenated: only positions (an input) and attention mix pieces
    attention_output: str | None = None  # the module of layer {} that receives the output of its attention
    classifier: Classifier | None = None


POOLED = Family(classifier=Classifier(pooling="pooler"))
DENSE = Classifier("classifier.out_proj", dense="classifier.dense")
ATTENTION_OUTPUT = "encoder.layer.{}.attention.output"
ROBERTA = Family(unpadded=True, attention_output=ATTENTION_OUTPUT, classifier=DENSE)
FAMILIES: dict[str, Family] = {
    "albert": POOLED,
    "bert": replace(POOLED, unpadded=True, attention_output=ATTENTION_OUTPUT),
    "camembert": ROBERTA,
    "deberta-v2": Family(classifier=Classifier(dense="pooler.dense", activation="gelu")),
    "distilbert": Family(
        unpadded=True,
        attention_output="transformer.layer.{}.sa_layer_norm",
        classifier=Classifier(dense="pre_classifier", activation="relu"),
    ),
    "electra": Family(unpadded=True, attention_output=ATTENTION_OUTPUT, classifier=replace(DENSE, activation="gelu")),
    "gpt2": Family(classifier=Classifier("score", bias=False)),
    "modernbert": Family(classifier=Classifier(dense="head.dense", activation="gelu", norm="head.norm")),
    "mpnet": replace(ROBERTA, unpadded=False, attention_output=None),
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "xlnet": Family(classifier=Classifier("logits_proj", dense="sequence_summary.summary")),
    # XLM's cls_token is </s>, but its classifier reads the first piece. As token types it would add the vectors of
    # pieces 0 and 1.
    "xlm": Family(class_position=0, token_types=False, classifier=Classifier("sequence_summary.summary")),
}

DEFAULT_MAX_PIECES = 512  # if neither config nor tokenizer sets a limit, because attention takes quadratic time


def family_of(config: Any) -> Family:
    """The table's entry for a model type, or the defaults.

    config: the model's configuration in Transformers.
    """
    return FAMILIES.get(config.model_type, Family())


def classifier_of(config: Any) -> Classifier:
    """The classification head of a model type.

    config: the model's configuration in Transformers.
    Raises ValueError if the table has no classifier for the model type, or config sets an unsupported variant.
    """
    classifier = family_of(config).classifier
    if classifier is None:
        supported = ", ".join(sorted(name for name, family in FAMILIES.items() if family.classifier))
        raise ValueError(f"classifiers of model type '{config.model_type}' are not supported; supported: {supported}")
    for setting, value in {
        "classifier_pooling": "cls",
        "summary_proj_to_labels": True,
        "summary_use_proj": True,
    }.items():
        if getattr(config, setting, value) != value:
            raise ValueError(
                f"config.json: a classifier with {setting}={getattr(config, setting)!r} is not supported, "
                f"only with {setting}={value!r}"
            )
    return classifier


def first_position(net: Any) -> int:
    """The position of a window's first piece: it follows the padding index of the position table, if that has one.

    net: the model of Transformers.
    """
    n_positions = getattr(net.config, "max_position_embeddings", None)
    for name, module in net.named_modules():
        is_table = "position" in name and len(getattr(module, "weight", ())) == n_positions
        if is_table and getattr(module, "padding_idx", None) is not None:
            return module.padding_idx + 1
    return 0


def max_pieces(net: Any, tokenizer: Any) -> int:
    """The model's maximum length in pieces, boundary pieces included.

    net: the model of Transformers.
    """
    positions = getattr(net.config, "max_position_embeddings", None) or 0
    limits = [positions - first_position(net), tokenizer.model_max_length]
    finite = [limit for limit in limits if 0 < limit < 10**9]  # Transformers writes "no limit" as 10**30
    return min(finite, default=DEFAULT_MAX_PIECES)
