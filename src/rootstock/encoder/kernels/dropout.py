"""Dropout that draws 16 random bits for each element instead of a float: on a CPU, drawing is most of its cost."""

from __future__ import annotations

from typing import Any

import torch

LEVELS = 2**16  # distinct values of a draw


class Dropout(torch.nn.Dropout):
    """`torch.nn.Dropout` with 16-bit draws on the CPU. On a GPU, where drawing is cheap, it is PyTorch's own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or not self.p or input.is_cuda:
            return super().forward(input)
        return _Dropout.apply(input, self.p)


def replace_dropout(net: torch.nn.Module) -> None:
    """Replace every `torch.nn.Dropout` by `Dropout`, in place."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if type(child) is torch.nn.Dropout:
                setattr(parent, name, Dropout(child.p))


def set_dropout(net: torch.nn.Module, rate: float) -> None:
    """Set the rate, between 0 and 1, of all dropout; no layer is skipped as a whole (`layerdrop`).

    Some models call the function `dropout` with a rate that they keep in an attribute, instead of a layer.
    """
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = rate
        for name in [name for name, value in vars(module).items() if "drop" in name and type(value) in (int, float)]:
            setattr(module, name, 0.0 if "layerdrop" in name else rate)


def draw_mask(values: torch.Tensor, rate: float) -> torch.Tensor:
    """A dropout mask of the values' shape and dtype: 1 keeps an element, 0 drops it.

    rate: between 0 and 1; rounded to a multiple of 1 / 65,536.
    """
    words = torch.empty(-(-values.numel() // 4), dtype=torch.int64, device=values.device).random_(-(2**63), None)
    threshold = min(_dropped_levels(rate), LEVELS - 1) - LEVELS // 2
    # Arithmetic instead of a comparison, because converting to bool and back takes ten times as long.
    mask = words.view(torch.int16)[: values.numel()].clamp(threshold - 1, threshold).sub_(threshold - 1)
    return mask.to(values.dtype).view(values.shape)


def keep_scale(rate: float) -> float:
    """The factor for kept elements that preserves the mean; 0 if all are dropped."""
    keep_rate = 1 - _dropped_levels(rate) / LEVELS
    return 1 / keep_rate if keep_rate else 0.0


def _dropped_levels(rate: float) -> int:
    return max(1, round(rate * LEVELS))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, rate: float) -> torch.Tensor:
        ctx.mask, ctx.scale = draw_mask(values, rate), keep_scale(rate)
        return values.mul(ctx.mask).mul_(ctx.scale)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        return gradient.mul(ctx.mask).mul_(ctx.scale), None
