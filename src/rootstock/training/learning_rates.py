"""Which of the transformer's weights learn, and how fast, by how deep they lie."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class LearningRates:
    """Settings of `trf_tok2vec`; see there."""

    train_layers: int | None = None  # the last N alone; None for all
    scale: float = 1.0
    decay: float = 1.0

    def of(self, names: list[str]) -> dict[str, float]:
        """The multiple of the optimizer's learning rate for each parameter of a model; 0 for one that is frozen."""
        numbers = [_number(name) for name in names]
        n_layers = 1 + max((n for n in numbers if n is not None), default=-1)
        frozen_below = 0 if self.train_layers is None else n_layers - self.train_layers + 1
        rates = {}
        for name, number in zip(names, numbers, strict=True):
            # Embeddings lie at 0, the layers at 1 to n, what stands above them (pooler, final norm) at n + 1.
            depth = number + 1 if number is not None else 0 if EMBEDDINGS.search(name) else n_layers + 1
            frozen = self.train_layers == 0 or depth < frozen_below
            rates[name] = 0.0 if frozen else self.scale * self.decay ** (n_layers + 1 - depth)
        return rates


EMBEDDINGS = re.compile(r"emb|wte|wpe")


def _number(name: str) -> int | None:
    """Families name their layers differently (`encoder.layer.3.`, `h.3.`, `ffns.3.`), but each by its number first."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)
