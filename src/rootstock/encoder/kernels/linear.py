"""Linear layers through oneDNN on CPUs: in fp32 it uses all vector units, while PyTorch's BLAS may use only half.

The bias is added in the same pass over memory. Without gradients, so is a following GELU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import gelu, linear
from transformers.activations import GELUActivation

from ...checked import checked, numbers

# Attribute names in Transformers: an activation, and the linear layer before it.
GELU_INPUTS = {"intermediate_act_fn": "dense", "activation": "lin1"}

_onednn = torch.ops.mkldnn  # private to PyTorch: see `onednn_supports`


@cache
def mkl_is_fast() -> bool:
    """On Intel CPUs MKL, PyTorch's BLAS, uses all vector units, and multiplies transposed matrices without a copy."""
    cpus = Path("/proc/cpuinfo")
    return torch.backends.mkl.is_available() and cpus.exists() and "GenuineIntel" in cpus.read_text("utf-8")


class Linear(torch.nn.Linear):
    """`torch.nn.Linear` through oneDNN, followed by GELU if `gelu` is set."""

    gelu = False
    packed: tuple[torch.Tensor, torch.Tensor | None] | None = None  # weight in oneDNN's layout, bias

    @classmethod
    def sharing(cls, layer: torch.nn.Linear) -> Linear:
        """A layer with the parameters of another."""
        shared = cls(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        shared.weight, shared.bias = layer.weight, layer.bias
        return shared.train(layer.training)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        dtype = product_dtype(input)
        supported = onednn_supports(input.device, dtype)
        if torch.is_grad_enabled() or not supported:
            if supported and not (mkl_is_fast() and dtype == torch.float32):
                output = _Linear.apply(input, self.weight, self.bias, dtype)
            else:
                output = linear(input, self.weight, self.bias)
            return gelu(output) if self.gelu else output
        weight, bias = self.packed or (self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))
        return _onednn._linear_pointwise(input.to(dtype), weight, bias, "gelu" if self.gelu else "none", [], "none")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype
    ) -> torch.Tensor:
        cast_input, cast_weight = input.to(dtype), weight.to(dtype)
        ctx.save_for_backward(cast_input, cast_weight)
        return _product(cast_input, cast_weight, None if bias is None else bias.to(dtype))

    @staticmethod
    @once_differentiable  # autograd casts each gradient to the dtype of its input
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple:
        input, weight = ctx.saved_tensors
        needs_input, needs_weight, needs_bias, _ = ctx.needs_input_grad
        rows, d_rows = input.flatten(0, -2), gradient.flatten(0, -2)
        # For bf16 torch.mm uses oneDNN, too, and multiplies transposed matrices without a copy.
        product = torch.mm if rows.dtype == torch.bfloat16 else lambda a, b: _product(a, b.T)
        return (
            product(d_rows, weight).view_as(input) if needs_input else None,
            product(d_rows.T, rows) if needs_weight else None,
            d_rows.sum(0) if needs_bias else None,
            None,
        )


def _product(input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    return _onednn._linear_pointwise(input, weight, bias, "none", [], "none")


def product_dtype(values: torch.Tensor) -> torch.dtype:
    """The dtype used for matrix products of these values: autocast's if it is enabled, else their own."""
    kind = values.device.type
    cast = torch.is_autocast_enabled(kind) and values.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if cast else values.dtype


def onednn_supports(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN computes matrix products of this dtype on this device, with the right numbers."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype in (torch.float32, torch.bfloat16) and _hardware_supports(dtype) and _is_correct(dtype)


@cache
def _hardware_supports(dtype: torch.dtype) -> bool:
    return dtype == torch.float32 or getattr(_onednn, "_is_mkldnn_bf16_supported", lambda: False)()


@checked("the linear layer of oneDNN")
def _is_correct(dtype: torch.dtype) -> bool:
    input, weight, bias = numbers(4, 8).to(dtype), numbers(6, 8).to(dtype), numbers(6).to(dtype)
    expected = linear(input.float(), weight.float(), bias.float())
    packed = _onednn._reorder_linear_weight(weight, 4)
    pairs = [
        (_onednn._linear_pointwise(input, weight, bias, "none", [], "none"), expected),
        (_onednn._linear_pointwise(input, weight, None, "none", [], "none"), expected - bias.float()),
        (_onednn._linear_pointwise(input, packed, bias, "gelu", [], "none"), gelu(expected)),
    ]
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    return all(torch.allclose(found.float(), right, atol=tolerance, rtol=tolerance) for found, right in pairs)


def replace_linear(net: torch.nn.Module) -> None:
    """Replace every `torch.nn.Linear` by `Linear` with the same parameters, and fuse following GELUs into it."""
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if type(child) is torch.nn.Linear:
                setattr(parent, name, Linear.sharing(child))
    for module in net.modules():
        for activation, layer in GELU_INPUTS.items():
            before = getattr(module, layer, None)
            if type(getattr(module, activation, None)) is GELUActivation and isinstance(before, Linear):
                setattr(module, activation, torch.nn.Identity())
                before.gelu = True


@contextmanager
def packed_weights(net: torch.nn.Module, n_rows: int) -> Iterator[None]:
    """Within, forward passes without gradients use weights in oneDNN's layout. This pays off for several passes.

    n_rows: approximate number of input rows.
    """
    layers = [module for module in net.modules() if isinstance(module, Linear)]
    for layer in layers:
        dtype = product_dtype(layer.weight)
        if onednn_supports(layer.weight.device, dtype):
            weight = _onednn._reorder_linear_weight(layer.weight.detach().to(dtype), n_rows)
            layer.packed = weight, None if layer.bias is None else layer.bias.detach().to(dtype)
    try:
        yield
    finally:
        for layer in layers:
            layer.packed = None
