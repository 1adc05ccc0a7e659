"""Dropout that draws sixteen bits for each number instead of a float: on a CPU, drawing is most of what it costs."""

from __future__ import annotations

from typing import Any

import torch

LEVELS = 2**16


class Dropout(torch.nn.Dropout):
    """PyTorch's, with other draws. On a GPU, where drawing is cheap, it is PyTorch's own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.p or input.is_cuda:
            return super().forward(input)
        return _Dropout.apply(input, self.p)


def replace_dropout(net: torch.nn.Module) -> None:
    """Make every dropout layer one of these."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(parent, name, Dropout(child.p))


def set_dropout(net: torch.nn.Module, rate: float) -> None:
    """Give every dropout layer this rate, between 0 and 1."""
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate


def draw(values: torch.Tensor, rate: float) -> torch.Tensor:
    """Of the values' shape and type: 1 for what is kept, 0 for the rest. The rate, 0 to 1, is met to 1 / 65,536."""
    words = torch.empty(-(-values.numel() // 4), dtype=torch.int64, device=values.device).random_(-(2**63), None)
    least = min(_dropped(rate), LEVELS - 1) - LEVELS // 2
    # By arithmetic, not a comparison: what converts to bool and back takes ten times as long.
    kept = words.view(torch.int16)[: values.numel()].clamp(least - 1, least).sub_(least - 1)
    return kept.to(values.dtype).view(values.shape)


def raised(rate: float) -> float:
    """What is kept times this has the mean that all had; zero where nothing is to be kept."""
    share = 1 - _dropped(rate) / LEVELS
    return 1 / share if share else 0.0


def _dropped(rate: float) -> int:
    """Of `LEVELS` draws."""
    return max(1, round(rate * LEVELS))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rate: float) -> torch.Tensor:
        ctx.kept, ctx.raised = draw(values, rate), raised(rate)
        return values.mul(ctx.kept).mul_(ctx.raised)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        return gradient.mul(ctx.kept).mul_(ctx.raised), None
