"""Attention without padding: windows lie end to end, and each looks at itself alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .alignment import counted
from .dropout import draw, keep

NAME = "rootstock"  # for set_attn_implementation
LONG = 128  # pieces; products of smaller matrices, and their softmax, are faster in fp32 than in halves of it


class Windows:
    """How the windows of a pack lie, and where attention wants the rows of their pieces: by window, then by head."""

    def __init__(self, lengths: np.ndarray) -> None:
        """lengths (int, Shape (n_windows,)): the longest first."""
        self.lengths = lengths
        self.orders: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """For products of matrices of this type."""
        return torch.float32 if dtype.itemsize == 2 and self.lengths[0] < LONG else dtype

    def order(self, n_heads: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices of rows, n_pieces * n_heads of them: there, and back."""
        if n_heads not in self.orders:
            starts = np.cumsum(self.lengths) - self.lengths
            first, length = (np.repeat(x, self.lengths)[:, None] for x in (starts * n_heads, self.lengths))
            back = (first + length * np.arange(n_heads) + counted(self.lengths)[:, None]).ravel()
            there = np.empty_like(back)
            there[back] = np.arange(len(back))
            self.orders[n_heads] = torch.from_numpy(there), torch.from_numpy(back)
        return self.orders[n_heads]

    def runs(self, n_heads: int) -> Iterator[tuple[int, slice]]:
        """Windows of one length, which are computed together: that length, and their rows."""
        end = 0
        for length, group in groupby(self.lengths.tolist()):
            start, end = end, end + length * n_heads * sum(1 for _ in group)
            yield length, slice(start, end)


class Attention(torch.autograd.Function):
    """Scaled dot-product attention (Vaswani et al. 2017, "Attention Is All You Need"), dropout on its weights.

    q, k, v, and what it gives: (n_pieces, n_heads, width).
    """

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, windows: Windows, scaling: float, rate: float) -> torch.Tensor:
        there, back = windows.order(q.shape[1])
        queries, keys, values = (_rows(x).index_select(0, there).to(windows.precision(x.dtype)) for x in (q, k, v))
        queries.mul_(scaling)
        output, saved, masks = torch.empty_like(values), [], []
        for length, rows in windows.runs(q.shape[1]):
            one, other, third, target = (x[rows].view(-1, length, x.shape[1]) for x in (queries, keys, values, output))
            weights = torch.softmax(torch.bmm(one, other.mT), -1)
            mask = draw(weights.numel(), rate, q.device).view_as(weights) if rate else None
            torch.bmm(keep(weights, mask, rate), third, out=target)
            saved.append(weights)
            masks.append(mask)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(queries, keys, values, *saved)
            ctx.masks, ctx.windows, ctx.scaling, ctx.rate, ctx.dtype = masks, windows, scaling, rate, q.dtype
        return output.to(q.dtype).index_select(0, back).view_as(q)

    @staticmethod
    def backward(ctx: Any, d_output: torch.Tensor) -> tuple:
        """The gradients of q, k, v."""
        n_heads = d_output.shape[1]
        there, back = ctx.windows.order(n_heads)
        queries, keys, values, *saved = ctx.saved_tensors
        gradient = _rows(d_output).index_select(0, there).to(queries.dtype)
        found = [torch.empty_like(x) for x in (queries, keys, values)]
        runs = ctx.windows.runs(n_heads)
        for weights, mask, (length, rows) in zip(saved, ctx.masks, runs, strict=True):
            one, other, third, d_run, d_one, d_other, d_third = (
                x[rows].view(-1, length, x.shape[1]) for x in (queries, keys, values, gradient, *found)
            )
            torch.bmm(keep(weights, mask, ctx.rate).mT, d_run, out=d_third)
            d_weights = keep(torch.bmm(d_run, third.mT), mask, ctx.rate)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            torch.bmm(d_scores, other, out=d_one)
            torch.bmm(d_scores.mT, one, out=d_other)
        found[0].mul_(ctx.scaling)
        d_q, d_k, d_v = (x.to(ctx.dtype).index_select(0, back).view_as(d_output) for x in found)
        return d_q, d_k, d_v, None, None, None


def _rows(pieces: torch.Tensor) -> torch.Tensor:
    return pieces.reshape(-1, pieces.shape[2])


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    windows: Windows | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As Transformers calls it: (1, n_heads, n_pieces, width), and back (1, n_pieces, n_heads, width)."""
    if windows is None:  # somebody else calls the model, with padding
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    with torch.autocast(q.device.type, enabled=False):  # the windows' length decides here
        return Attention.apply(q, k, v, windows, scaling, dropout)[None], None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
