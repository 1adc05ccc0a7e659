"""The transformer over the windows of many documents: a Thinc model around the PyTorch one.

Windows are sorted by length and packed under a budget, also in training. Each pack is a microbatch. Activations are
stored up to the budget; other microbatches are recomputed in the backward pass (activation checkpointing), so memory
is bounded for one huge document as for many small ones.
Source: Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from thinc.api import Model, Optimizer, PyTorchShim, torch2xp

from ..pieces.pieces import Pieces
from ..training import adam
from ..training.learning_rates import LearningRates
from ..training.loss_scale import LossScale
from ..weights.families import family_of, first_position
from .batch import Batch, Encoded, Layout
from .kernels import attention
from .kernels.dropout import replace_dropout
from .kernels.linear import packed_weights, product_dtype, replace_linear
from .last_layer import select_rows
from .layer_mix import LayerMix

LARGE_BATCH_PACKS = 8  # a batch of at least this many packs is large: memory then matters more than time
LARGE_BATCH_BUDGET_DIVISOR = 4  # training splits the budget of a large batch by this, for smaller microbatches
TRIM_INTERVAL = 50  # training batches between returns of free heap memory: over an epoch it would fragment


def make_encoder(
    net: Any,
    words_per_batch: int,
    precision: str,
    rates: LearningRates,
    hidden_states: bool = False,
    attentions: bool = False,
    mix: LayerMix | None = None,
    kernels: bool = True,
) -> Model:
    """A Thinc model from list[Pieces] to list[Encoded].

    The backward pass takes for each document the gradients of last_hidden_state (or class_states) and pooler_output,
    None for zero.
    If the model's attribute `class_pieces_only` is set, training computes the last layer only for class pieces, and
    outputs class_states instead of last_hidden_state.

    net: the model of Transformers. Its dropout, linear and attention modules are replaced in place.
    words_per_batch: maximum number of pieces, padding included, in a microbatch.
    precision: fp32, bf16, fp16 or auto.
    rates: learning rates of the layers.
    hidden_states, attentions: whether predictions contain those of every layer.
    mix: computes last_hidden_state from the states of all layers.
    kernels: whether to use the operations in `kernels` and the fused Adam; if not, plain PyTorch is the reference.
    """
    _limit_threads_after_fork()
    unpadded = kernels and not attentions and family_of(net.config).unpadded and attention.can_be_used()
    if attentions:
        net.set_attn_implementation("eager")  # fused kernels do not return attention weights
    elif unpadded:
        net.set_attn_implementation(attention.IMPLEMENTATION)
        net.embeddings.register_forward_hook(_cast_embeddings)
    if kernels:
        replace_dropout(net)
        replace_linear(net)
    net.get_input_embeddings().sparse = True  # a batch uses few rows of this table
    return Model(
        "transformer",
        _forward,
        attrs={
            "words_per_batch": words_per_batch,
            "precision": precision,
            "hidden_states": hidden_states,
            "attentions": attentions,
            "unpadded": unpadded,
            "first_position": first_position(net),
            "class_pieces_only": False,
            "n_batches": 0,  # training batches so far
            "loss_scale": LossScale(2.0**16 if precision == "fp16" else 1.0),
        },
        shims=[
            _Shim(net, rates.of([name for name, _ in net.named_parameters()]), kernels),
            *([] if mix is None else [_Shim(mix, {name: 1.0 for name, _ in mix.named_parameters()}, kernels)]),
        ],
    )


class _Shim(PyTorchShim):
    """Thinc's shim with a learning rate for each parameter. Parameters with rate 0 are frozen."""

    def __init__(self, net: Any, rates: dict[str, float], kernels: bool) -> None:
        super().__init__(net)
        self.rates, self.kernels = rates, kernels
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(rates[name] > 0)

    def finish_update(self, optimizer: Optimizer) -> None:
        named = self._model.named_parameters()
        parameters = (((self.id, name), parameter, self.rates[name]) for name, parameter in named)
        adam.step(optimizer, parameters, fused=self.kernels)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices faster than float32 ones; False if PyTorch does not tell.

    A virtual machine may hide the AMX of an Intel CPU: what is left, AVX512-BF16, is slower there than float32.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    private = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    amx, avx512 = (getattr(torch.cpu, name, lambda: False)() is True for name in private)
    return amx or (avx512 and not _is_intel())


@cache
def _is_intel() -> bool:
    cpu = Path("/proc/cpuinfo")
    return "GenuineIntel" in (cpu.read_text("utf-8", "replace") if cpu.is_file() else platform.processor())


@cache
def _malloc_trim() -> Callable[[int], Any] | None:
    """The function of glibc; None with another C library."""
    libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
    return getattr(libc, "malloc_trim", None)


def _trim_heap() -> None:
    """Return free heap memory to the system: fragments that fit no array would add up to gigabytes."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _limit_threads_after_fork() -> None:
    """A forked child (`nlp.pipe(n_process=2)`) has OpenMP's locks without its threads, and would wait forever."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


def _coalesce_gradient(table: torch.nn.Parameter) -> None:
    """Sum duplicate rows of a sparse gradient, which otherwise has one for each piece of the batch."""
    if table.grad is not None and table.grad.is_sparse:
        table.grad = table.grad.coalesce()


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def _cast_embeddings(embeddings: Any, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    """On a CPU pass states between layers in the dtype of matrix products: less memory to move."""
    return output.to(product_dtype(output)) if output.device.type == "cpu" else output


def _forward(model: Model, docs: list[Pieces], is_train: bool) -> tuple[list[Encoded], Callable]:
    net, mix = model.shims[0]._model, next((shim._model for shim in model.shims[1:]), None)
    net.train(is_train)
    needs_layers = model.attrs["hidden_states"] or model.attrs["attentions"] or mix is not None
    class_pieces_only = is_train and model.attrs["class_pieces_only"] and not needs_layers
    batch = Batch(docs, net, model.attrs["unpadded"], class_pieces_only, model.attrs["first_position"])
    budget, scale, precision = (model.attrs[name] for name in ("words_per_batch", "loss_scale", "precision"))
    output_flags = {
        "output_hidden_states": model.attrs["hidden_states"] or mix is not None,
        "output_attentions": model.attrs["attentions"],
    }

    rows = torch.zeros(batch.n_rows, net.config.hidden_size, device=batch.device, dtype=batch.dtype)
    pooled: torch.Tensor | None = None
    microbatches: list[_Microbatch] = []
    layers = _LayerOutputs(batch, model.attrs["hidden_states"], model.attrs["attentions"])
    packs = batch.packs(budget)
    large = len(packs) >= LARGE_BATCH_PACKS
    trim_every = LARGE_BATCH_PACKS // 2
    if large and is_train:
        budget = max(1, budget // LARGE_BATCH_BUDGET_DIVISOR)
        packs = batch.packs(budget)
    pack_weights = len(packs) > 1 and not is_train
    n_pieces = 0
    with _autocast(precision, batch.device), packed_weights(net, budget) if pack_weights else nullcontext():
        for number, windows in enumerate(packs):
            microbatch = _Microbatch(net, mix, batch, windows, precision, output_flags)
            n_pieces += microbatch.layout.size
            keep_graph = is_train and (n_pieces <= budget or not microbatches)
            output, pool = microbatch.forward(keep_graph, layers)
            rows[microbatch.layout.rows] = output
            if pool is not None:
                pooled = rows.new_zeros(len(batch.lengths), rows.shape[1]) if pooled is None else pooled
                pooled[microbatch.windows] = pool
            if is_train:
                microbatches.append(microbatch)
                if microbatch.output is None:
                    del microbatch.layout  # also recomputed
            if large and is_train and (number + 1) % trim_every == 0:
                _trim_heap()
    if large:  # before the outputs are copied
        _trim_heap()

    def backprop(d_docs: list[tuple[Any, Any]]) -> list:
        d_rows, d_pooled = batch.join_gradients(d_docs, scale.value)
        microbatches.reverse()  # pop() takes stored graphs first: they free memory for the recomputed ones
        while microbatches:
            microbatches.pop().backward(d_rows, d_pooled)
            if large and len(microbatches) % trim_every == 0:
                _coalesce_gradient(net.get_input_embeddings().weight)
                _trim_heap()
        model.attrs["n_batches"] += 1
        if model.attrs["n_batches"] % TRIM_INTERVAL == 0:
            _trim_heap()
        return []

    return layers.add_to(batch.split_outputs(rows, pooled)), backprop


class _Microbatch:
    """One pack through the network. Stores its autograd graph, or the random state to recompute it."""

    def __init__(
        self,
        net: Any,
        mix: LayerMix | None,
        batch: Batch,
        windows: np.ndarray,
        precision: str,
        output_flags: dict[str, bool],
    ) -> None:
        self.net, self.mix, self.precision, self.output_flags = net, mix, precision, output_flags
        self.batch, self.pack = batch, windows
        self.device, self.dtype, self.windows = batch.device, batch.dtype, batch.to_device(windows)

    @cached_property
    def layout(self) -> Layout:
        return self.batch.layout(self.pack)

    def forward(self, keep_graph: bool, layers: _LayerOutputs) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The rows of last_hidden_state (n_rows, width) without padding, and the pooler output (n_windows, width)."""
        self.rng_state = _get_rng_state(self.device) if self.net.training and not keep_graph else None
        with torch.set_grad_enabled(keep_graph):
            output = self._compute(layers)
        self.output = output if keep_graph else None
        return output[0].detach(), None if output[1] is None else output[1].detach()

    def _compute(self, layers: _LayerOutputs | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        selected = self.layout.selected
        with nullcontext() if selected is None else select_rows(self.net, selected):
            output = self.net(**self.layout.inputs, **self.output_flags)
        if layers is not None:
            layers.collect(self, output)
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None and len(pooled) < len(self.windows):  # windows are concatenated: one pooled row for all
            firsts = output.last_hidden_state[0, self.layout.first_positions]
            pooled = self.net.pooler(firsts[:, None])[: len(self.windows)]
        states = [output.last_hidden_state] if self.mix is None else output.hidden_states
        rows = [self.layout.unpad(state).to(self.dtype) for state in states]
        hidden = rows[0] if self.mix is None else self.mix(torch.stack(rows))
        return hidden, None if pooled is None else pooled.to(self.dtype)

    def backward(self, d_rows: torch.Tensor | None, d_pooled: torch.Tensor | None) -> None:
        output = self.output
        if output is None:
            assert self.rng_state is not None
            replay, autocast = _replay_rng(self.rng_state, self.device), _autocast(self.precision, self.device)
            with replay, autocast, torch.enable_grad():
                output = self._compute()
        candidates = [(output[0], d_rows, self.layout.rows), (output[1], d_pooled, self.windows)]
        pairs = [(tensor, d[index]) for tensor, d, index in candidates if tensor is not None and d is not None]
        if pairs:
            torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])


class _LayerOutputs:
    """The hidden states and attentions of every layer, collected over the microbatches."""

    def __init__(self, batch: Batch, hidden_states: bool, attentions: bool) -> None:
        self.batch = batch
        self.collect_states, self.collect_attentions = hidden_states, attentions
        self.states: torch.Tensor | None = None  # (n_layers + 1, n_rows, width)
        self.attentions: dict[int, Any] = {}  # by window

    def collect(self, microbatch: _Microbatch, output: Any) -> None:
        layout, dtype = microbatch.layout, microbatch.dtype
        if self.collect_states:
            states = torch.stack([layout.unpad(h.detach()).to(dtype) for h in output.hidden_states])
            if self.states is None:
                self.states = states.new_zeros(len(states), len(self.batch.ids), states.shape[2])
            self.states[:, layout.rows] = states
        if self.collect_attentions:
            matrices = torch.stack([a.detach().to(dtype) for a in output.attentions], dim=1)
            for window, matrix in zip(microbatch.windows.tolist(), matrices, strict=True):
                n = int(self.batch.lengths[window])
                self.attentions[window] = torch2xp(matrix[:, :, :n, :n].contiguous())

    def add_to(self, encoded: list[Encoded]) -> list[Encoded]:
        batch = self.batch
        if self.states is not None:
            states = torch2xp(torch.stack([batch.pieces.mean(layer) for layer in self.states]))
            parts = np.split(states, batch.bounds.pieces[1:-1], axis=1)
            encoded = [doc._replace(hidden_states=part) for doc, part in zip(encoded, parts, strict=True)]
        if self.attentions:
            encoded = [
                doc._replace(attentions=[self.attentions[w] for w in range(start, end)])
                for doc, (start, end) in zip(encoded, pairwise(batch.bounds.windows), strict=True)
            ]
        return encoded


def _get_rng_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def _replay_rng(state: torch.Tensor, device: torch.device) -> Iterator[None]:
    """Within, draw the same dropout masks again; afterwards restore the generator."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
        yield
