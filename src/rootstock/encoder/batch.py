"""The windows of many documents as one batch: what the network takes of it, and what it gives, document by document."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import numpy as np
import torch
from thinc.api import torch2xp, xp2torch
from torch.nn.functional import embedding_bag

from ..pieces.alignment import counted, entries
from ..pieces.packing import pack
from ..pieces.pieces import Pieces
from ..weights.families import family_of
from .kernels import attention


class Encoded(NamedTuple):
    """What the transformer gives for one document; arrays of NumPy or CuPy."""

    tensor: Any  # (n_tokens, width)
    last_hidden_state: Any  # (n_pieces, width)
    pooler_output: Any  # (n_sentences, width), None where the model has no pooler
    class_states: Any = None  # (n_windows, width), in the place of tensor and last_hidden_state where that is all
    hidden_states: Any = None  # (n_layers + 1, n_pieces, width), the embeddings first, where asked for
    attentions: Any = None  # for each window (n_layers, n_heads, n_pieces, n_pieces), where asked for


class Layout(NamedTuple):
    """A pack of windows as the network takes it, end to end or padded, and where what it gives belongs."""

    inputs: dict[str, Any]
    rows: torch.Tensor  # of each piece that comes out among those of the batch
    places: torch.Tensor  # of each of these in the flat output
    firsts: torch.Tensor  # the first piece of each window among `rows`, that of one window again up to a power of two
    chosen: torch.Tensor | None  # the pieces with which the last layer goes on from its attention, None for all

    @property
    def size(self) -> int:
        """Pieces to compute, padding included."""
        return self.inputs["input_ids"].numel()

    def rows_of(self, state: torch.Tensor) -> torch.Tensor:
        """(n, length, width) -> (n_rows, width), padding left out."""
        flat = state.flatten(0, 1)
        return flat if len(flat) == len(self.places) else flat.index_select(0, self.places)


class Batch:
    """The windows of all documents end to end, and where each document's pieces, tokens and sentences begin."""

    def __init__(self, docs: list[Pieces], net: Any, attentions: bool, class_pieces_alone: bool) -> None:
        weights = next(net.parameters())
        self.device, self.dtype = weights.device, weights.dtype
        self.config, family = net.config, family_of(net.config)
        self.unpadded = family.unpadded and not attentions and self.device.type == "cpu"
        self.first_position = family.reserved_positions
        self.pad = net.config.pad_token_id or 0
        self.all, self.bounds = Pieces.join(docs)
        windows = self.all.window_pieces
        self.lengths = self.all.window_lengths
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.ids, self.types = self.all.ids[windows], self.all.types[windows]
        self.typed = bool(self.types.any()) and "token_type_ids" in inspect.signature(net.forward).parameters
        self.sentences = _Merge(self.all.window_sentence, self.all.n_sentences, self.device)
        first = np.array_equal(windows[self.starts], self.all.window_class)
        self.class_pieces_alone = class_pieces_alone and family.after_attention is not None and first
        self.n_rows = len(self.lengths if self.class_pieces_alone else windows)
        self.pieces = _Merge(windows, len(self.all.ids), self.device)

    def packs(self, budget: int) -> list[np.ndarray]:
        """Windows that are computed together, by their indices; one that is longer than the budget is so alone."""
        self.budget = budget
        return list(pack(self.lengths, budget, padded=not self.unpadded))

    def layout(self, windows: np.ndarray) -> Layout:
        """One of the packs, as the network takes it. windows (int, Shape (n,)): their indices."""
        lengths = self.lengths[windows]
        within, firsts = counted(lengths), np.cumsum(lengths) - lengths
        rows = np.repeat(self.starts[windows], lengths) + within
        if self.unpadded:
            shape, places = (1, _recurring(len(rows), self.budget)), np.arange(len(rows))
            more = np.ones(shape[1] - len(rows), "int64")  # windows of one piece, which nobody reads
        else:
            shape = (len(windows), int(lengths.max()))
            places = np.repeat(np.arange(len(windows)) * shape[1], lengths) + within

        def grid(values: np.ndarray, padding: int = 0) -> torch.Tensor:
            filled = np.full(shape, padding, "int64")
            filled.flat[places] = values
            return torch.from_numpy(filled).to(self.device)

        inputs: dict[str, Any] = {"input_ids": grid(self.ids[rows], self.pad)}
        if self.typed:
            inputs["token_type_ids"] = grid(self.types[rows])
        if self.unpadded:
            inputs |= {
                "position_ids": grid(within + self.first_position, self.first_position),
                "windows": attention.Windows(np.append(lengths, more), self.config.num_attention_heads),
            }
        elif len(rows) < inputs["input_ids"].numel():  # without padding no mask is needed, and attention is cheaper
            inputs["attention_mask"] = grid(np.ones_like(rows))
        chosen, firsts = None, np.append(firsts, np.zeros(_power_of_two(len(firsts)) - len(firsts), "int64"))
        if self.class_pieces_alone:
            chosen = self.on_device(places[firsts])
            rows, places, firsts = windows, np.arange(len(windows)), np.arange(len(firsts))
        return Layout(inputs, self.on_device(rows), self.on_device(places), self.on_device(firsts), chosen)

    def on_device(self, values: np.ndarray) -> torch.Tensor:
        """As a tensor where the weights are."""
        return torch.from_numpy(values).to(self.device)

    def join_outputs(self, rows: torch.Tensor, pooled: torch.Tensor | None) -> list[Encoded]:
        """For each document its own of `rows` (n_rows, width) and `pooled` (n_windows, width)."""
        pools = _split(None if pooled is None else self.sentences.mean(pooled), self.bounds.sentences)
        if self.class_pieces_alone:
            states = _split(rows, self.bounds.windows)
            return [Encoded(None, None, *parts) for parts in zip(pools, states, strict=True)]
        hidden = self.pieces.mean(rows)
        tensors, hiddens = _split(self.tensor(hidden), self.bounds.tokens), _split(hidden, self.bounds.pieces)
        return [Encoded(*parts) for parts in zip(tensors, hiddens, pools, strict=True)]

    def tensor(self, hidden: torch.Tensor) -> torch.Tensor:
        """`A @ H`, (n_tokens, width): each row a sum of weighted rows of last_hidden_state."""
        tokens, pieces, weights = entries(self.all)
        order = np.argsort(tokens, kind="stable")
        starts = np.searchsorted(tokens[order], np.arange(self.all.n_tokens))
        return embedding_bag(
            self.on_device(pieces[order]),
            hidden,
            self.on_device(starts),
            mode="sum",
            per_sample_weights=self.on_device(weights[order]).to(self.dtype),
        )

    def split_gradients(
        self, d_docs: list[tuple[Any, Any]], scale: float
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Those of the rows and the pooled that `join_outputs` took, times scale; None where no document has any."""
        ends = self.bounds.windows if self.class_pieces_alone else self.bounds.pieces
        d_rows = self._stack([d[0] for d in d_docs], np.diff(ends), scale)
        d_pool = self._stack([d[1] for d in d_docs], np.diff(self.bounds.sentences), scale)
        if d_rows is not None and not self.class_pieces_alone:
            d_rows = self.pieces.mean_backward(d_rows)
        return d_rows, None if d_pool is None else self.sentences.mean_backward(d_pool)

    def _stack(self, parts: list[Any], sizes: np.ndarray, scale: float) -> torch.Tensor | None:
        width = next((part.shape[1] for part in parts if part is not None), None)
        if width is None:
            return None
        most = max((size for part, size in zip(parts, sizes, strict=True) if part is None), default=0)
        zeros = torch.zeros(most, width, device=self.device, dtype=self.dtype)
        found = [
            zeros[:size] if part is None else xp2torch(part, device=self.device)
            for part, size in zip(parts, sizes, strict=True)
        ]
        joined = found[0] if len(found) == 1 else torch.cat(found)
        return joined if scale == 1.0 else joined * scale


class _Merge:
    """Several rows of the model's output stand for one piece (or sentence): their mean, and its gradient."""

    def __init__(self, index: np.ndarray, size: int, device: torch.device) -> None:
        counts = np.bincount(index, minlength=size)
        self.trivial = bool((counts == 1).all())  # then index is 0, 1, 2, ...
        self.size = size
        self.index = torch.from_numpy(index).to(device)
        self.weights = torch.from_numpy((1 / np.maximum(counts, 1)).astype("float32")).to(device)[:, None]

    def mean(self, rows: torch.Tensor) -> torch.Tensor:
        if self.trivial:
            return rows
        return rows.new_zeros(self.size, rows.shape[1]).index_add_(0, self.index, rows) * self.weights

    def mean_backward(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient if self.trivial else (gradient * self.weights)[self.index]


def _power_of_two(size: int) -> int:
    """So many rows or more."""
    return 1 << (size - 1).bit_length()


def _recurring(size: int, most: int) -> int:
    """So many rows or up to a 32nd more: oneDNN compiles a product for each shape that it meets, and keeps it."""
    step = 1 << max(0, size.bit_length() - 6)
    return max(size, min(-(-size // step) * step, most))


def _split(rows: torch.Tensor | None, bounds: np.ndarray) -> list[Any]:
    """For each document an array, or None."""
    return [None] * (len(bounds) - 1) if rows is None else np.split(torch2xp(rows), bounds[1:-1])
