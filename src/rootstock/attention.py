"""Attention without padding: windows lie end to end, and each looks at itself alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .alignment import counted
from .dropout import draw, raised
from .linear import computes

NAME = "rootstock"  # for set_attn_implementation
ALIKE = 0.8  # of the longest window that is computed with it: less padding costs more calls
MOST = 2**19  # attention weights that are computed together: more would leave the cache between one step and the next
LARGE = 2000  # pieces in a pack, from which on products in halves of fp32 are worth their casts


class Run(NamedTuple):
    """Windows that are computed together, as the longest of them is: the others have padding."""

    rows: slice
    length: int
    padding: torch.Tensor | None  # bool (n_windows, 1, 1, n), of the last n columns; None where there is none

    def of(self, *rows: torch.Tensor) -> list[torch.Tensor]:
        """Its rows of each: (n_windows * n_heads, length, width)."""
        return [x[self.rows].view(-1, self.length, x.shape[1]) for x in rows]

    def weights(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """(n_windows * n_heads, length, length)"""
        scores = torch.bmm(query, key.mT)
        if self.padding is not None:
            padded = scores[:, :, -self.padding.shape[-1] :].unflatten(0, (len(self.padding), -1))
            padded.masked_fill_(self.padding, float("-inf"))
        return torch.softmax(_wide(scores), -1).to(query.dtype)


class Windows:
    """How the windows of a pack lie, and where attention wants the rows of their pieces: by window, then by head."""

    def __init__(self, lengths: np.ndarray, n_heads: int) -> None:
        """lengths (int, Shape (n_windows,)): the longest first."""
        self.large = lengths.sum() >= LARGE
        self.runs: list[Run] = []
        padded = np.empty_like(lengths)
        first, row = 0, 0
        while first < len(lengths):
            length = int(lengths[first])
            alike = int(np.count_nonzero(lengths[first:] >= ALIKE * length))
            size = min(alike, max(1, MOST // (n_heads * length**2)))
            # In halves of fp32 oneDNN compiles a product for each shape, and keeps it: powers of two recur.
            if self.large:
                size = 1 << (size.bit_length() - 1)
            last = first + size
            shortest = int(lengths[last - 1])
            padding = torch.from_numpy(np.arange(shortest, length) >= lengths[first:last, None])[:, None, None]
            rows = slice(row, row + size * length * n_heads)
            self.runs.append(Run(rows, length, padding if shortest < length else None))
            padded[first:last] = length
            first, row = last, rows.stop
        self.sizes = [(run.rows.stop - run.rows.start) * run.length for run in self.runs]  # weights of each
        starts, lines = (np.repeat(x, lengths)[:, None] for x in ((np.cumsum(padded) - padded) * n_heads, padded))
        back = (starts + lines * np.arange(n_heads) + counted(lengths)[:, None]).ravel()
        there, unused = np.zeros(row, "int64"), np.ones(row, bool)  # padding reads whatever comes first
        there[back], unused[back] = np.arange(len(back)), False
        self.there, self.back, self.unused = map(torch.from_numpy, (there, back, np.flatnonzero(unused)))

    def precision(self, of: torch.Tensor) -> torch.dtype:
        """In which products of these are computed."""
        fast = of.dtype.itemsize > 2 or (self.large and computes(of.device, of.dtype))
        return of.dtype if fast else torch.float32


class Attention(torch.autograd.Function):
    """Scaled dot-product attention (Vaswani et al. 2017, "Attention Is All You Need"), dropout on its weights.

    q, k, v, and what it gives: (n_pieces, n_heads, width).
    """

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, windows: Windows, scaling: float, rate: float) -> torch.Tensor:
        dtype = windows.precision(q)
        queries, keys, values = (_rows(x).index_select(0, windows.there).to(dtype) for x in (q, k, v))
        queries.mul_(scaling)
        masks: Any = [None] * len(windows.runs)
        if rate:  # drawn at once; the values are raised, instead of the weights that are kept, run by run
            masks = draw(values.new_empty(1).expand(sum(windows.sizes)), rate).split(windows.sizes)
            values.mul_(raised(rate))
        output, saved = torch.empty_like(values), []
        for mask, run in zip(masks, windows.runs, strict=True):
            query, key, value, target = run.of(queries, keys, values, output)
            weights = run.weights(query, key)
            torch.bmm(_kept(weights, mask), value, out=target)
            saved.append(weights)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(queries, keys, values, *saved)
            ctx.masks, ctx.windows, ctx.scaling, ctx.rate, ctx.dtype = masks, windows, scaling, rate, q.dtype
        return output.to(q.dtype).index_select(0, windows.back).view_as(q)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: torch.Tensor) -> tuple:
        """The gradients of q, k, v."""
        windows = ctx.windows
        queries, keys, values, *saved = ctx.saved_tensors
        gradient = _rows(d_output).index_select(0, windows.there).to(queries.dtype).index_fill_(0, windows.unused, 0)
        found = [torch.empty_like(x) for x in (queries, keys, values)]
        for weights, mask, run in zip(saved, ctx.masks, windows.runs, strict=True):
            query, key, value, d_run = run.of(queries, keys, values, gradient)
            d_query, d_key, d_value = run.of(*found)
            torch.bmm(_kept(weights, mask).mT, d_run, out=d_value)
            d_weights, wide = _wide(_kept(torch.bmm(d_run, value.mT), mask)), _wide(weights)
            d_scores = torch._softmax_backward_data(d_weights, wide, -1, wide.dtype).to(value.dtype)
            torch.bmm(d_scores, key, out=d_query)
            torch.bmm(d_scores.mT, query, out=d_key)
        found[0].mul_(ctx.scaling)
        if ctx.rate:
            found[2].mul_(raised(ctx.rate))
        d_q, d_k, d_v = (x.to(ctx.dtype).index_select(0, windows.back).view_as(d_output) for x in found)
        return d_q, d_k, d_v, None, None, None


def _kept(weights: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return weights if mask is None else weights * mask.view_as(weights)


def _wide(values: torch.Tensor) -> torch.Tensor:
    # A softmax of bf16 rows is several times slower on a CPU than that of fp32 rows.
    return values.float() if values.dtype.itemsize == 2 else values


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
