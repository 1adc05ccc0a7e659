"""Linear layers by oneDNN on CPUs: in fp32 it uses all of their vector units, where PyTorch's BLAS may use half.

The bias is added in the same pass over memory, and without gradients an activation that follows, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear
from transformers.activations import GELUActivation

# What transformers call an activation, and the layer before it.
BEFORE = {"intermediate_act_fn": "dense", "activation": "lin1"}

_onednn = torch.ops.mkldnn


def _is_by_intel() -> bool:
    cpus = Path("/proc/cpuinfo")
    return cpus.exists() and "GenuineIntel" in cpus.read_text()


# MKL, PyTorch's BLAS, uses all vector units of its own maker's CPUs; there it takes transposed matrices as they lie.
MKL_IS_FAST = torch.backends.mkl.is_available() and _is_by_intel()


class Linear(torch.nn.Linear):
    """PyTorch's by another road, and GELU where `gelu` is set."""

    gelu = False
    packed: tuple[torch.Tensor, torch.Tensor | None] | None = None  # weight, bias

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        dtype = product_dtype(input)
        known = computes(input.device, dtype)
        if torch.is_grad_enabled() or not known:
            ours = known and not (MKL_IS_FAST and dtype == torch.float32)
            output = (
                _Linear.apply(input, self.weight, self.bias, dtype) if ours else linear(input, self.weight, self.bias)
            )
            return gelu(output) if self.gelu else output
        weight, bias = self.packed or (self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))
        return _onednn._linear_pointwise(input.to(dtype), weight, bias, "gelu" if self.gelu else "none", [], "none")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        cast, matrix = input.to(dtype), weight.to(dtype)
        ctx.save_for_backward(cast, matrix)
        return _product(cast, matrix, None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable  # autograd gives each gradient the type of what it belongs to
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        input, weight = ctx.saved_tensors
        of_input, of_weight, of_bias, _ = ctx.needs_input_grad
        rows, d_rows = input.flatten(0, -2), gradient.flatten(0, -2)
        # Products of bf16 are oneDNN's in PyTorch, too, and there matrices are taken as they lie.
        product = torch.mm if rows.dtype == torch.bfloat16 else lambda a, b: _product(a, b.T)
        return (
            product(d_rows, weight).view_as(input) if of_input else None,
            product(d_rows.T, rows) if of_weight else None,
            d_rows.sum(0) if of_bias else None,
            None,
        )


def _product(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return _onednn._linear_pointwise(input, weight, bias, "none", [], "none")


def product_dtype(values: torch.Tensor) -> torch.dtype:
    """That in which products of these are computed."""
    kind = values.device.type
    cast = torch.is_autocast_enabled(kind) and values.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if cast else values.dtype


def computes(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN does here."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and _onednn._is_mkldnn_bf16_supported())


def replace_linear(net: torch.nn.Module) -> None:
    """Make every linear layer one of these, and let it compute the GELU that follows."""
    for module in net.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = Linear
        for name, before in BEFORE.items():
            if type(getattr(module, name, None)) is GELUActivation and hasattr(module, before):
                setattr(module, name, torch.nn.Identity())
                getattr(module, before).gelu = True


@contextmanager
def packed(net: torch.nn.Module, rows: int) -> Iterator[None]:
    """Within, passes without gradients read weights as oneDNN wants them to lie. It pays for several passes.

    rows: of the input, about.
    """
    layers = [module for module in net.modules() if isinstance(module, Linear)]
    for layer in layers:
        dtype = product_dtype(layer.weight)
        if computes(layer.weight.device, dtype):
            weight = _onednn._reorder_linear_weight(layer.weight.detach().to(dtype), rows)
            layer.packed = weight, None if layer.bias is None else layer.bias.detach().to(dtype)
    try:
        yield
    finally:
        for layer in layers:
            layer.packed = None
