"""Dynamic loss scaling for training in fp16."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from thinc.api import Model


@dataclass
class LossScale:
    """Scales the loss so that small fp16 gradients do not underflow.

    An overflow skips the step and halves the scale; after `GROWTH_INTERVAL` steps without one the scale doubles.
    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
    """

    GROWTH_INTERVAL = 2000

    value: float
    steps: int = 0  # since the last overflow

    def unscale(self, model: Model) -> None:
        """Divide the accumulated gradients by the scale, or drop them all if any has overflowed."""
        parameters = [p for shim in model.shims for p in shim._model.parameters() if p.grad is not None]
        if self.value == 1.0 or not parameters:
            return
        if all(bool(_values(p.grad).isfinite().all()) for p in parameters):
            for p in parameters:
                p.grad /= self.value
            self.steps += 1
            if self.steps % self.GROWTH_INTERVAL == 0:
                self.value *= 2
        else:
            for p in parameters:
                p.grad = None
            self.value, self.steps = max(2.0, self.value / 2), 0


def _values(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient
