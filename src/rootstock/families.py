"""What is odd about a model family. Everything else is read off its config and its tokenizer."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """Settings of a model type, as `config.json` names it."""

    reserved_positions: int = 0  # rows of the position table that no piece takes: RoBERTa's count begins after padding
    class_position: int | None = (
        None  # of the piece that speaks for a window, where the tokenizer's cls_token is not it
    )


ROBERTA = Family(reserved_positions=2)
FAMILIES: dict[str, Family] = {
    "camembert": ROBERTA,
    "mpnet": ROBERTA,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "xlm": Family(class_position=0),  # its cls_token is </s>, its classifier reads the first piece
}

UNLIMITED = 512  # pieces in a window where neither config nor tokenizer sets a limit: attention is quadratic


def family_of(config: Any) -> Family:
    return FAMILIES.get(config.model_type, Family())


def max_pieces(config: Any, tokenizer: Any) -> int:
    """The most pieces that the model takes at a time, boundary pieces included."""
    positions = getattr(config, "max_position_embeddings", None) or 0
    limits = [positions - family_of(config).reserved_positions, tokenizer.model_max_length]
    known = [limit for limit in limits if 0 < limit < 10**9]
    return min(known, default=UNLIMITED)
