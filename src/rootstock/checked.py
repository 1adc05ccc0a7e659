"""Fast operations are private to PyTorch: each is used only if a first tiny check gives the right numbers.

If the operation is missing or wrong, plain PyTorch computes instead, after one warning.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, wraps
from typing import Any

import torch


def checked(operation: str) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    """Decorates a check, which returns whether an operation gives the right numbers: it runs once, and may raise.

    operation: its name in the warning.
    """

    def decorate(check: Callable[..., bool]) -> Callable[..., bool]:
        @cache
        @wraps(check)
        def works(*args: Any) -> bool:
            try:
                with torch.autocast("cpu", enabled=False):
                    correct = check(*args)
            except Exception:  # missing, or with other arguments than this code passes
                correct = False
            if not correct:
                warnings.warn(
                    f"{operation} does not work as expected in PyTorch {torch.__version__}: using plain PyTorch, "
                    "which is slower",
                    stacklevel=2,
                )
            return correct

        return works

    return decorate


def numbers(*shape: int) -> torch.Tensor:
    """Small float32 numbers of both signs for a check, without drawing random ones."""
    return torch.arange(1.0, 1 + torch.Size(shape).numel()).mul(0.7).sin().view(shape)
