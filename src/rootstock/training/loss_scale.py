"""Training in fp16."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from thinc.api import Model


@dataclass
class LossScale:
    """Keeps small gradients of fp16 from vanishing (Micikevicius et al. 2018, "Mixed Precision Training", section 3.2).

    An overflow costs a step and halves the scale; after `PATIENCE` steps without one it is doubled.
    """

    PATIENCE = 2000

    value: float
    steps: int = 0

    def unscale(self, model: Model) -> None:
        """Take the scale out of the gradients that wait for a step, or the gradients with it where they overflowed."""
        parameters = [p for shim in model.shims for p in shim._model.parameters() if p.grad is not None]
        if self.value == 1.0 or not parameters:
            return
        if all(bool(_values(p.grad).isfinite().all()) for p in parameters):
            for p in parameters:
                p.grad /= self.value
            self.steps += 1
            if self.steps % self.PATIENCE == 0:
                self.value *= 2
        else:
            for p in parameters:
                p.grad = None
            self.value, self.steps = max(2.0, self.value / 2), 0


def _values(gradient: torch.Tensor) -> torch.Tensor:
    return gradient.coalesce().values() if gradient.is_sparse else gradient
