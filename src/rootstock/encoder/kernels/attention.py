"""Attention over concatenated windows without padding: each window attends only to itself."""

from __future__ import annotations

from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from ...checked import checked, numbers
from ...pieces.alignment import concat_ranges
from .dropout import draw_mask, keep_scale
from .linear import onednn_supports

IMPLEMENTATION = "rootstock"  # for set_attn_implementation
MIN_LENGTH_RATIO = 0.8  # of the shortest to the longest window in a group: less padding costs more calls
MAX_GROUP_WEIGHTS = 2**19  # attention weights in a group: more would not fit the cache
MIN_HALF_PIECES = 2000  # pieces in a pack from which on 16-bit products are worth their casts
LENGTH_MULTIPLE = 8  # of window lengths in 16-bit products, for few shapes: oneDNN caches half a MB for each


class RowBlock(NamedTuple):
    """The rows of a group of windows in a tensor of all windows' rows."""

    rows: slice
    length: int  # rows of each window and head

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.rows.stop - self.rows.start

    def view(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """(n_rows, width) of all windows -> (n_windows * n_heads, length, width) of this group, for each tensor."""
        return [x[self.rows].view(-1, self.length, x.shape[1]) for x in tensors]


class Group(NamedTuple):
    """Windows of similar length that are computed together, padded to the longest."""

    queries: RowBlock
    keys: RowBlock  # keys and values
    padding_mask: (
        torch.Tensor | None
    )  # bool (n_windows, 1, 1, n) of the last n keys, True for padding; None: no padding

    def weights(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Attention weights: (n_windows * n_heads, n_queries, n_keys)."""
        scores = torch.bmm(query, key.mT)
        if self.padding_mask is not None:
            tail = scores[:, :, -self.padding_mask.shape[-1] :].unflatten(0, (len(self.padding_mask), -1))
            tail.masked_fill_(self.padding_mask, float("-inf"))
        return torch.softmax(_upcast(scores), -1).to(query.dtype)


class RowOrder(NamedTuple):
    """Reorders rows from (piece, head) to (window, head, position), padding included, and back."""

    source: torch.Tensor  # for each reordered row the row it is copied from; row 0 for padding
    target: torch.Tensor | None  # for each row its place in the new order; None if only some rows are used
    padding: torch.Tensor  # the reordered rows that are padding

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """(n_pieces, n_heads, width) -> (n_rows, width)."""
        return x.reshape(-1, x.shape[2]).index_select(0, self.source)

    def scatter(self, rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        """The inverse: (n_rows, width) -> (n_pieces, n_heads, width), in the dtype of `like`; zeros for unused rows."""
        rows = rows.to(like.dtype)
        if self.target is None:
            x = rows.new_zeros(like.shape[:2].numel(), like.shape[2]).index_copy_(0, self.source, rows)
        else:
            x = rows.index_select(0, self.target)
        return x.view_as(like)


class Windows:
    """The layout of a pack of concatenated windows for attention."""

    def __init__(self, lengths: np.ndarray, n_heads: int) -> None:
        """lengths (int, Shape (n_windows,)): pieces of each window, longest first."""
        self.use_half = torch.is_autocast_enabled("cpu") and lengths.sum() >= MIN_HALF_PIECES
        self.groups: list[Group] = []
        padded_lengths = np.empty_like(lengths)
        first, row = 0, 0
        while first < len(lengths):
            length = int(lengths[first])
            n_similar = int(np.count_nonzero(lengths[first:] >= MIN_LENGTH_RATIO * length))
            size = min(n_similar, max(1, MAX_GROUP_WEIGHTS // (n_heads * length**2)))
            if self.use_half:  # few shapes: round the length up, and the number of windows down to a power of two
                length, size = -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE, 1 << (size.bit_length() - 1)
            last = first + size
            shortest = int(lengths[last - 1])
            mask = torch.from_numpy(np.arange(shortest, length) >= lengths[first:last, None])[:, None, None]
            block = RowBlock(slice(row, row + size * length * n_heads), length)
            self.groups.append(Group(block, block, mask if shortest < length else None))
            padded_lengths[first:last] = length
            first, row = last, block.rows.stop
        firsts = np.cumsum(lengths) - lengths
        window_starts = (np.cumsum(padded_lengths) - padded_lengths) * n_heads
        heads = np.arange(n_heads)
        within = np.repeat(padded_lengths, lengths)[:, None] * heads + concat_ranges(lengths)[:, None]
        target = (np.repeat(window_starts, lengths)[:, None] + within).ravel()
        source, is_padding = np.zeros(row, "int64"), np.ones(row, bool)
        source[target], is_padding[target] = np.arange(len(target)), False
        order = RowOrder(*map(torch.from_numpy, (source, target, np.flatnonzero(is_padding))))
        self.query_order = self.key_order = order
        self._first_rows = torch.from_numpy((firsts[:, None] * n_heads + heads).ravel())

    def first_piece_queries(self) -> Windows:
        """The same windows, with the first piece of each as the only query."""
        windows, row = copy(self), 0
        windows.query_order, windows.groups = RowOrder(self._first_rows, None, self._first_rows[:0]), []
        for group in self.groups:
            rows = slice(row, row + group.keys.size // group.keys.length)
            windows.groups.append(group._replace(queries=RowBlock(rows, 1)))
            row = rows.stop
        return windows

    def product_dtype(self, x: torch.Tensor) -> torch.dtype:
        """The dtype used for matrix products of x."""
        supported = x.dtype.itemsize > 2 or (self.use_half and onednn_supports(x.device, x.dtype))
        return x.dtype if supported else torch.float32


class Attention(torch.autograd.Function):
    """Scaled dot-product attention, with dropout on the weights.

    q, k, v and the output: (n_pieces, n_heads, width).
    Source: Vaswani et al. 2017, "Attention Is All You Need".
    """

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, windows: Windows, scaling: float, rate: float) -> torch.Tensor:
        dtype = windows.product_dtype(q)
        orders = (windows.query_order, windows.key_order, windows.key_order)
        queries, keys, values = (order.gather(x).to(dtype) for order, x in zip(orders, (q, k, v), strict=True))
        queries.mul_(scaling)
        masks: Any = [None] * len(windows.groups)
        if rate:  # draw all masks at once, and scale the values once instead of the weights of each group
            sizes = [group.queries.size * group.keys.length for group in windows.groups]
            masks = draw_mask(values.new_empty(1).expand(sum(sizes)), rate).split(sizes)
            values.mul_(keep_scale(rate))
        output, saved_weights = torch.empty_like(queries), []
        for mask, group in zip(masks, windows.groups, strict=True):
            query, target = group.queries.view(queries, output)
            key, value = group.keys.view(keys, values)
            weights = group.weights(query, key)
            torch.bmm(_apply_mask(weights, mask), value, out=target)
            saved_weights.append(weights)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(queries, keys, values, *saved_weights)
            ctx.masks, ctx.windows, ctx.scaling, ctx.rate = masks, windows, scaling, rate
        return windows.query_order.scatter(output, like=q)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: torch.Tensor) -> tuple:
        """The gradients of q, k and v."""
        windows = ctx.windows
        queries, keys, values, *saved_weights = ctx.saved_tensors
        order = windows.query_order
        d_rows = order.gather(d_output).to(queries.dtype).index_fill_(0, order.padding, 0)
        d_queries, d_keys, d_values = (torch.empty_like(x) for x in (queries, keys, values))
        for weights, mask, group in zip(saved_weights, ctx.masks, windows.groups, strict=True):
            query, d_query, d_group = group.queries.view(queries, d_queries, d_rows)
            key, value, d_key, d_value = group.keys.view(keys, values, d_keys, d_values)
            torch.bmm(_apply_mask(weights, mask).mT, d_group, out=d_value)
            d_weights, weights = _upcast(_apply_mask(torch.bmm(d_group, value.mT), mask)), _upcast(weights)
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype).to(value.dtype)
            torch.bmm(d_scores, key, out=d_query)
            torch.bmm(d_scores.mT, query, out=d_key)
        d_queries.mul_(ctx.scaling)
        if ctx.rate:
            d_values.mul_(keep_scale(ctx.rate))
        orders = (windows.query_order, windows.key_order, windows.key_order)
        gradients = zip(orders, (d_queries, d_keys, d_values), strict=True)
        return *(order.scatter(x, like=d_output) for order, x in gradients), None, None, None


def _apply_mask(weights: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return weights if mask is None else weights * mask.view_as(weights)


def _upcast(values: torch.Tensor) -> torch.Tensor:
    # On a CPU, softmax of bf16 is several times slower than of fp32.
    return values.float() if values.dtype.itemsize == 2 else values


def _attention_forward(
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
    """Transformers' attention interface: (1, n_heads, n_pieces, width) -> (1, n_pieces, n_heads, width)."""
    if windows is None:  # another caller, with padded inputs
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kwargs)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    with torch.autocast(q.device.type, enabled=False):  # Windows.product_dtype decides
        return Attention.apply(q, k, v, windows, scaling, dropout)[None], None


def can_be_used() -> bool:
    """Whether the attention here gives the right numbers, and Transformers can call it."""
    return _is_registered() and _is_correct()


@checked("the attention interface of Transformers")
def _is_registered() -> bool:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(IMPLEMENTATION, _attention_forward)
    AttentionMaskInterface.register(IMPLEMENTATION, sdpa_mask)
    return True


@checked("the backward pass of softmax")
def _is_correct() -> bool:
    """Two windows of different lengths, compared with PyTorch's own attention on each."""
    lengths, scaling = [5, 4], 0.5

    def by_windows(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return Attention.apply(q, k, v, Windows(np.array(lengths), q.shape[1]), scaling, 0.0)

    def by_pytorch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        qs, ks, vs = (x.transpose(0, 1).split(lengths, dim=1) for x in (q, k, v))
        parts = [scaled_dot_product_attention(*qkv, scale=scaling) for qkv in zip(qs, ks, vs, strict=True)]
        return torch.cat(parts, dim=1).transpose(0, 1)

    results = []
    for attend in (by_windows, by_pytorch):
        inputs = [numbers(9, 2, 4).roll(i, 0).requires_grad_() for i in range(3)]
        with torch.enable_grad():
            output = attend(*inputs)
            gradients = torch.autograd.grad((output * numbers(9, 2, 4).cos()).sum(), inputs)
        results.append([output, *gradients])
    return all(torch.allclose(x, y, atol=1e-5) for x, y in zip(*results, strict=True))
