"""Attention without padding: windows lie end to end, and each looks at itself alone."""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...pieces.alignment import counted
from .dropout import draw, raised
from .linear import computes

NAME = "rootstock"  # for set_attn_implementation
ALIKE = 0.8  # of the longest window that is computed with it: less padding costs more calls
MOST = 2**19  # attention weights that are computed together: more would leave the cache between one step and the next
LARGE = 2000  # pieces in a pack, from which on products in halves of fp32 are worth their casts
MULTIPLE = 8  # of pieces, and a power of two of windows, in such products: oneDNN keeps half a MB for each shape


class Place(NamedTuple):
    """Where rows of some windows lie among those of all."""

    rows: slice
    length: int  # rows of a window and head

    @property
    def size(self) -> int:
        """Rows of all windows and heads."""
        return self.rows.stop - self.rows.start

    def of(self, *all_rows: torch.Tensor) -> list[torch.Tensor]:
        """Its rows of each: (n_windows * n_heads, length, width)."""
        return [x[self.rows].view(-1, self.length, x.shape[1]) for x in all_rows]


class Run(NamedTuple):
    """Windows that are computed together, as the longest of them is: the others have padding."""

    asking: Place  # queries, and what they get
    asked: Place  # keys and values
    padding: torch.Tensor | None  # bool (n_windows, 1, 1, n), of the last n columns; None where there is none

    def weights(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """(n_windows * n_heads, n_queries, length)"""
        scores = torch.bmm(query, key.mT)
        if self.padding is not None:
            padded = scores[:, :, -self.padding.shape[-1] :].unflatten(0, (len(self.padding), -1))
            padded.masked_fill_(self.padding, float("-inf"))
        return torch.softmax(_wide(scores), -1).to(query.dtype)


class Order(NamedTuple):
    """How attention wants the rows of pieces: by window, then by head."""

    there: torch.Tensor  # the row for each place; padding reads whatever comes first
    back: torch.Tensor | None  # the place of each row; None where rows are left out: they come back as zeros
    unused: torch.Tensor  # places of padding

    def lay(self, pieces: torch.Tensor) -> torch.Tensor:
        """(n_pieces, n_heads, width) -> (n_places, width)"""
        return pieces.reshape(-1, pieces.shape[2]).index_select(0, self.there)

    def give_back(self, laid: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """(n_places, width) -> (n_pieces, n_heads, width), in the type of `like`."""
        laid = laid.to(like.dtype)
        if self.back is None:
            rows = laid.new_zeros(like.shape[:2].numel(), like.shape[2]).index_copy_(0, self.there, laid)
        else:
            rows = laid.index_select(0, self.back)
        return rows.view_as(like)


class Windows:
    """How the windows of a pack lie."""

    def __init__(self, lengths: np.ndarray, n_heads: int) -> None:
        """lengths (int, Shape (n_windows,)): the longest first."""
        self.halves = torch.is_autocast_enabled("cpu") and lengths.sum() >= LARGE
        self.runs: list[Run] = []
        padded = np.empty_like(lengths)
        first, row = 0, 0
        while first < len(lengths):
            length = int(lengths[first])
            alike = int(np.count_nonzero(lengths[first:] >= ALIKE * length))
            size = min(alike, max(1, MOST // (n_heads * length**2)))
            if self.halves:
                length, size = -(-length // MULTIPLE) * MULTIPLE, 1 << (size.bit_length() - 1)
            last = first + size
            shortest = int(lengths[last - 1])
            padding = torch.from_numpy(np.arange(shortest, length) >= lengths[first:last, None])[:, None, None]
            place = Place(slice(row, row + size * length * n_heads), length)
            self.runs.append(Run(place, place, padding if shortest < length else None))
            padded[first:last] = length
            first, row = last, place.rows.stop
        firsts, starts = np.cumsum(lengths) - lengths, (np.cumsum(padded) - padded) * n_heads
        heads = np.arange(n_heads)
        lines = np.repeat(padded, lengths)[:, None] * heads + counted(lengths)[:, None]
        back = (np.repeat(starts, lengths)[:, None] + lines).ravel()
        there, unused = np.zeros(row, "int64"), np.ones(row, bool)
        there[back], unused[back] = np.arange(len(back)), False
        self.asking = self.asked = Order(*map(torch.from_numpy, (there, back, np.flatnonzero(unused))))
        self._firsts = torch.from_numpy((firsts[:, None] * n_heads + heads).ravel())

    def asked_by_first(self) -> Windows:
        """The same, where the first piece of each looks at the others, and nobody else looks."""
        windows, row = copy(self), 0
        windows.asking, windows.runs = Order(self._firsts, None, self._firsts[:0]), []
        for run in self.runs:
            rows = slice(row, row + run.asked.size // run.asked.length)
            windows.runs.append(run._replace(asking=Place(rows, 1)))
            row = rows.stop
        return windows

    def precision(self, of: torch.Tensor) -> torch.dtype:
        """In which products of these are computed."""
        fast = of.dtype.itemsize > 2 or (self.halves and computes(of.device, of.dtype))
        return of.dtype if fast else torch.float32


class Attention(torch.autograd.Function):
    """Scaled dot-product attention (Vaswani et al. 2017, "Attention Is All You Need"), dropout on its weights.

    q, k, v, and what it gives: (n_pieces, n_heads, width).
    """

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, windows: Windows, scaling: float, rate: float) -> torch.Tensor:
        dtype = windows.precision(q)
        queries, keys, values = (
            order.lay(x).to(dtype) for order, x in ((windows.asking, q), (windows.asked, k), (windows.asked, v))
        )
        queries.mul_(scaling)
        masks: Any = [None] * len(windows.runs)
        if rate:  # drawn at once; the values are raised, instead of the weights that are kept, run by run
            sizes = [run.asking.size * run.asked.length for run in windows.runs]
            masks = draw(values.new_empty(1).expand(sum(sizes)), rate).split(sizes)
            values.mul_(raised(rate))
        output, saved = torch.empty_like(queries), []
        for mask, run in zip(masks, windows.runs, strict=True):
            query, target = run.asking.of(queries, output)
            key, value = run.asked.of(keys, values)
            weights = run.weights(query, key)
            torch.bmm(_kept(weights, mask), value, out=target)
            saved.append(weights)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(queries, keys, values, *saved)
            ctx.masks, ctx.windows, ctx.scaling, ctx.rate = masks, windows, scaling, rate
        return windows.asking.give_back(output, like=q)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: torch.Tensor) -> tuple:
        """The gradients of q, k, v."""
        windows = ctx.windows
        queries, keys, values, *saved = ctx.saved_tensors
        gradient = windows.asking.lay(d_output).to(queries.dtype).index_fill_(0, windows.asking.unused, 0)
        d_queries, d_keys, d_values = (torch.empty_like(x) for x in (queries, keys, values))
        for weights, mask, run in zip(saved, ctx.masks, windows.runs, strict=True):
            query, d_query, d_run = run.asking.of(queries, d_queries, gradient)
            key, value, d_key, d_value = run.asked.of(keys, values, d_keys, d_values)
            torch.bmm(_kept(weights, mask).mT, d_run, out=d_value)
            d_weights, wide = _wide(_kept(torch.bmm(d_run, value.mT), mask)), _wide(weights)
            d_scores = torch._softmax_backward_data(d_weights, wide, -1, wide.dtype).to(value.dtype)
            torch.bmm(d_scores, key, out=d_query)
            torch.bmm(d_scores.mT, query, out=d_key)
        d_queries.mul_(ctx.scaling)
        if ctx.rate:
            d_values.mul_(raised(ctx.rate))
        orders = (windows.asking, windows.asked, windows.asked)
        found = zip(orders, (d_queries, d_keys, d_values), strict=True)
        return *(order.give_back(x, like=d_output) for order, x in found), None, None, None


def _kept(weights: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return weights if mask is None else weights * mask.view_as(weights)


def _wide(values: torch.Tensor) -> torch.Tensor:
    # A softmax of bf16 rows is several times slower on a CPU than that of fp32 rows.
    return values.float() if values.dtype.itemsize == 2 else values


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
