"""The windows of many documents as one batch: model inputs for each pack, and outputs for each document."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import numpy as np
import torch
from thinc.api import torch2xp, xp2torch
from torch.nn.functional import embedding_bag

from ..pieces.alignment import Factors, concat_ranges
from ..pieces.packing import pack
from ..pieces.pieces import Pieces
from .kernels import attention
from .last_layer import has_attention_output


class Encoded(NamedTuple):
    """The transformer's output for one document; NumPy or CuPy arrays."""

    tensor: Any  # (n_tokens, width)
    last_hidden_state: Any  # (n_pieces, width)
    pooler_output: Any  # (n_sentences, width), None if the model has no pooler
    class_states: Any = None  # (n_windows, width), instead of tensor and last_hidden_state if only these are computed
    hidden_states: Any = None  # (n_layers + 1, n_pieces, width), embeddings first, if requested
    attentions: Any = None  # for each window (n_layers, n_heads, n_pieces, n_pieces), if requested


class Layout(NamedTuple):
    """A pack of windows as model inputs, concatenated or padded, and the mapping of the model's output."""

    inputs: dict[str, Any]
    rows: torch.Tensor  # (n_rows,) for each output row its index in the batch
    positions: torch.Tensor  # (n_rows,) its position in the flattened output of the model
    first_positions: torch.Tensor  # position of each window's first piece, padded to a power of two
    selected: torch.Tensor | None  # positions that the last layer computes after its attention; None: all

    @property
    def size(self) -> int:
        """Number of computed pieces, padding included."""
        return self.inputs["input_ids"].numel()

    def unpad(self, state: torch.Tensor) -> torch.Tensor:
        """(n, length, width) -> (n_rows, width), without padding."""
        flat = state.flatten(0, 1)
        return flat if len(flat) == len(self.positions) else flat.index_select(0, self.positions)


class Batch:
    """The concatenated windows of all documents, and the bounds of each document's pieces, tokens and sentences.

    unpadded: whether the model takes windows end to end instead of padded, on a CPU.
    class_pieces_only: whether to compute the last layer only for class pieces, if the model family allows it.
    first_position: the position of a window's first piece.
    Raises ValueError if the model's embeddings have no row for a piece, its position or its type.
    """

    def __init__(
        self, docs: list[Pieces], net: Any, unpadded: bool, class_pieces_only: bool, first_position: int
    ) -> None:
        weights = next(net.parameters())
        self.device, self.dtype = weights.device, weights.dtype
        self.config = net.config
        self.unpadded = unpadded and self.device.type == "cpu"
        self.first_position = first_position
        self.pad_id = max(0, net.config.pad_token_id or 0)  # some configs have -1 for none
        self.joined, self.bounds = Pieces.join(docs)
        window_pieces = self.joined.window_pieces
        self.lengths = self.joined.window_lengths
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.ids, self.types = self.joined.ids[window_pieces], self.joined.types[window_pieces]
        n_embedded = len(net.get_input_embeddings().weight)
        if self.ids.max(initial=0) >= n_embedded:
            raise ValueError(
                f"piece {self.ids.max()} is outside the transformer's embedding of {n_embedded} pieces: give "
                "'trf_wordpiecer' and 'trf_tok2vec' the same weights, and enlarge the embedding after adding to the "
                "tokenizer"
            )
        takes_types = "token_type_ids" in inspect.signature(net.forward).parameters
        self.has_types = bool(self.types.any()) and takes_types
        n_positions = (getattr(net.config, "max_position_embeddings", None) or 0) - first_position
        n_types = getattr(net.config, "type_vocab_size", None) or 0
        if 0 < n_positions < self.lengths.max(initial=0) or (self.has_types and 0 < n_types <= self.types.max()):
            raise ValueError(
                "a Doc has longer windows or more token types than the transformer: pass it through a "
                "'trf_wordpiecer' with the same weights again"
            )
        self.sentences = _SegmentMean(self.joined.window_sentence, self.joined.n_sentences, self.device)
        class_first = np.array_equal(window_pieces[self.starts], self.joined.window_class)
        self.class_pieces_only = class_pieces_only and class_first and has_attention_output(net)
        self.n_rows = len(self.lengths if self.class_pieces_only else window_pieces)
        self.pieces = _SegmentMean(window_pieces, len(self.joined.ids), self.device)

    def packs(self, budget: int) -> list[np.ndarray]:
        """The indices of the windows in each pack.

        budget: maximum number of pieces in a pack; a longer window gets a pack of its own.
        """
        self.budget = budget
        return list(pack(self.lengths, budget, padded=not self.unpadded))

    def layout(self, windows: np.ndarray) -> Layout:
        """The model inputs of a pack.

        windows (int, Shape (n,)): the indices of its windows.
        """
        lengths = self.lengths[windows]
        within, firsts = concat_ranges(lengths), np.cumsum(lengths) - lengths
        rows = np.repeat(self.starts[windows], lengths) + within
        if self.unpadded:
            shape, positions = (1, _round_up(len(rows), self.budget)), np.arange(len(rows))
            filler = np.ones(shape[1] - len(rows), "int64")  # windows of one padding piece
        else:
            shape = (len(windows), int(lengths.max()))
            positions = np.repeat(np.arange(len(windows)) * shape[1], lengths) + within

        def arrange(values: np.ndarray, padding: int = 0) -> torch.Tensor:
            arranged = np.full(shape, padding, "int64")
            arranged.flat[positions] = values
            return torch.from_numpy(arranged).to(self.device)

        ids = self.ids[rows]
        inputs: dict[str, Any] = {"input_ids": arrange(ids, self.pad_id)}
        if self.has_types:
            inputs["token_type_ids"] = arrange(self.types[rows])
        if self.unpadded:
            # As the model counts: a padding piece, which a text may contain, has the position before the first.
            counted = ids != self.first_position - 1
            ends = np.cumsum(counted)
            numbers = counted * (ends - np.repeat((ends - counted)[firsts], lengths))
            inputs |= {
                "position_ids": arrange(numbers + self.first_position - 1, self.first_position),
                "windows": attention.Windows(np.append(lengths, filler), self.config.num_attention_heads),
            }
        elif len(rows) < inputs["input_ids"].numel():  # attention is faster without a mask
            inputs["attention_mask"] = arrange(np.ones_like(rows))
        selected, firsts = None, np.append(firsts, np.zeros(_next_power_of_two(len(firsts)) - len(firsts), "int64"))
        if self.class_pieces_only:
            selected = self.to_device(positions[firsts])
            rows, positions, firsts = windows, np.arange(len(windows)), np.arange(len(firsts))
        return Layout(inputs, self.to_device(rows), self.to_device(positions), self.to_device(firsts), selected)

    def to_device(self, values: np.ndarray) -> torch.Tensor:
        """A tensor on the device of the weights."""
        return torch.from_numpy(values).to(self.device)

    def split_outputs(self, rows: torch.Tensor, pooled: torch.Tensor | None) -> list[Encoded]:
        """Split the outputs by document.

        rows: (n_rows, width), of all windows.
        pooled: (n_windows, width), None if the model has no pooler.
        """
        pooler_outputs = _split(None if pooled is None else self.sentences.mean(pooled), self.bounds.sentences)
        if self.class_pieces_only:
            states = _split(rows, self.bounds.windows)
            return [Encoded(None, None, *arrays) for arrays in zip(pooler_outputs, states, strict=True)]
        hidden = self.pieces.mean(rows)
        tensors = _split(self.token_rows(hidden), self.bounds.tokens)
        hidden_states = _split(hidden, self.bounds.pieces)
        return [Encoded(*arrays) for arrays in zip(tensors, hidden_states, pooler_outputs, strict=True)]

    def token_rows(self, hidden: torch.Tensor) -> torch.Tensor:
        """`A @ H` of all documents (see `pieces.alignment`): (n_pieces, width) -> (n_tokens, width)."""
        pieces, factors = self.joined, Factors.of(self.joined)
        rows = embedding_bag(
            self.to_device(pieces.aligned_pieces),
            hidden,
            self.to_device(np.searchsorted(pieces.aligned_tokens, np.arange(pieces.n_tokens))),
            mode="sum",
            per_sample_weights=self.to_device(factors.weights).to(self.dtype),
        )
        starts = np.searchsorted(factors.sentences, np.arange(len(pieces.sentence_tokens)))
        sums = embedding_bag(self.to_device(factors.unaligned), hidden, self.to_device(starts), mode="sum")
        shares = self.to_device(factors.token_shares).to(self.dtype)[:, None]
        return rows.addcmul_(sums.index_select(0, self.to_device(factors.token_sentences)), shares)

    def join_gradients(
        self, d_docs: list[tuple[Any, Any]], scale: float
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """The backward pass of `split_outputs`.

        d_docs: for each document the gradients of its states and of its pooler output, None for zero.
        scale: factor for all gradients.
        RETURNS: the gradients of `rows` and `pooled`; None if no document has one.
        """
        row_bounds = self.bounds.windows if self.class_pieces_only else self.bounds.pieces
        d_rows = self._concatenate([d[0] for d in d_docs], np.diff(row_bounds), scale)
        d_pooled = self._concatenate([d[1] for d in d_docs], np.diff(self.bounds.sentences), scale)
        if d_rows is not None and not self.class_pieces_only:
            d_rows = self.pieces.mean_backward(d_rows)
        return d_rows, None if d_pooled is None else self.sentences.mean_backward(d_pooled)

    def _concatenate(self, gradients: list[Any], sizes: np.ndarray, scale: float) -> torch.Tensor | None:
        width = next((gradient.shape[1] for gradient in gradients if gradient is not None), None)
        if width is None:
            return None
        n_zeros = max((size for d, size in zip(gradients, sizes, strict=True) if d is None), default=0)
        zeros = torch.zeros(n_zeros, width, device=self.device, dtype=self.dtype)
        tensors = [
            zeros[:size] if gradient is None else xp2torch(gradient, device=self.device)
            for gradient, size in zip(gradients, sizes, strict=True)
        ]
        joined = tensors[0] if len(tensors) == 1 else torch.cat(tensors)
        return joined if scale == 1.0 else joined * scale


class _SegmentMean:
    """The mean of the output rows of each piece (or sentence), which may occur in several windows."""

    def __init__(self, segments: np.ndarray, n_segments: int, device: torch.device) -> None:
        counts = np.bincount(segments, minlength=n_segments)
        self.is_identity = bool((counts == 1).all())  # segments are then 0, 1, 2, ...
        self.n_segments = n_segments
        self.segments = torch.from_numpy(segments).to(device)
        self.weights = torch.from_numpy((1 / np.maximum(counts, 1)).astype("float32")).to(device)[:, None]

    def mean(self, rows: torch.Tensor) -> torch.Tensor:
        if self.is_identity:
            return rows
        return rows.new_zeros(self.n_segments, rows.shape[1]).index_add_(0, self.segments, rows) * self.weights

    def mean_backward(self, gradient: torch.Tensor) -> torch.Tensor:
        return gradient if self.is_identity else (gradient * self.weights)[self.segments]


def _next_power_of_two(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _round_up(size: int, limit: int) -> int:
    """Up to 1/32 more than size: fewer distinct shapes, because oneDNN compiles and caches a kernel for each."""
    step = 1 << max(0, size.bit_length() - 6)
    return max(size, min(-(-size // step) * step, limit))


def _split(rows: torch.Tensor | None, bounds: np.ndarray) -> list[Any]:
    """Each document's array, or None for each."""
    return [None] * (len(bounds) - 1) if rows is None else np.split(torch2xp(rows), bounds[1:-1])
