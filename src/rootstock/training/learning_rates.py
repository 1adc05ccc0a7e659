"""Layer-wise learning rates and frozen layers of the transformer."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class LearningRates:
    """The learning-rate settings of `trf_tok2vec` (see `make_tok2vec`)."""

    train_layers: int | None = None  # train only the last N layers; None: all
    scale: float = 1.0  # learning_rate_scale
    decay: float = 1.0  # layer_decay

    def of(self, names: list[str]) -> dict[str, float]:
        """Multiplier of the optimizer's learning rate for each parameter of a model; 0 if it is frozen.

        names: of all the model's parameters.
        """
        numbers = [_layer_number(name) for name in names]
        n_layers = 1 + max((n for n in numbers if n is not None), default=-1)
        frozen_below = 0 if self.train_layers is None else n_layers - self.train_layers + 1
        rates = {}
        for name, number in zip(names, numbers, strict=True):
            # Depth 0: embeddings; 1 to n: the layers; n + 1: what follows them (pooler, final norm).
            depth = number + 1 if number is not None else 0 if EMBEDDING_NAME.search(name) else n_layers + 1
            frozen = self.train_layers == 0 or depth < frozen_below
            rates[name] = 0.0 if frozen else self.scale * self.decay ** (n_layers + 1 - depth)
        return rates


EMBEDDING_NAME = re.compile(r"emb|wte|wpe")


def _layer_number(name: str) -> int | None:
    """The first number in a parameter's name: in all families (`encoder.layer.3.`, `h.3.`, `ffns.3.`) the layer's."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)
