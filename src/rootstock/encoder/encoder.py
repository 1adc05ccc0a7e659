"""Run the transformer over the windows of many documents, and back: one Thinc model around the PyTorch one.

Windows are sorted by length and packed under a budget, in training too. What the budget does not hold is computed
again in the backward pass instead of being kept (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"),
so one huge document is as bounded as many small ones.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from thinc.api import Model, Optimizer, PyTorchShim, torch2xp

from ..pieces.pieces import Pieces
from ..training import adam
from ..training.learning_rates import LearningRates
from ..training.loss_scale import LossScale
from ..weights.families import family_of
from .batch import Batch, Encoded, Layout
from .kernels import attention
from .kernels.dropout import replace_dropout
from .kernels.linear import packed, product_dtype, replace_linear
from .last_layer import only_rows
from .layer_mix import LayerMix

# A forked child, as of `nlp.pipe(n_process=2)`, has OpenMP's locks but not its threads, and would wait for them.
os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


MANY = 8  # packs: a batch of so many is a huge document, and memory counts for more than time
SHARE = 4  # of such a batch, training computes packs of so small a part of the budget
OFTEN = 50  # batches of training, after which free memory goes back: fragments of it would add up over an epoch
_libc = ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None


def make_encoder(
    net: Any,
    words_per_batch: int,
    precision: str,
    rates: LearningRates,
    hidden_states: bool = False,
    attentions: bool = False,
    mix: LayerMix | None = None,
) -> Model:
    """A Thinc model from list[Pieces] to list[Encoded].

    Its backward takes, per document, the gradients of last_hidden_state (or class_states) and pooler_output (None for
    zero).
    words_per_batch: the most pieces, with the padding that there is, that the transformer computes at a time.
    hidden_states, attentions: whether predictions hold those of every layer.
    mix: makes last_hidden_state of the states of all layers.
    Its attribute `class_pieces_alone` says that training reads no other piece: the last layer then computes no other,
    and class_states is what comes out.
    """
    if attentions:
        net.set_attn_implementation("eager")  # the fused kernels never hold the matrices
    elif family_of(net.config).unpadded:
        net.set_attn_implementation(attention.NAME)
        net.embeddings.register_forward_hook(_narrowed)
    replace_dropout(net)
    replace_linear(net)
    net.get_input_embeddings().sparse = True  # a batch uses few rows of that table
    return Model(
        "transformer",
        _forward,
        attrs={
            "words_per_batch": words_per_batch,
            "precision": precision,
            "hidden_states": hidden_states,
            "attentions": attentions,
            "class_pieces_alone": False,
            "batches": 0,  # of training, so far
            "loss_scale": LossScale(2.0**16 if precision == "fp16" else 1.0),
        },
        shims=[
            _Shim(net, rates.of([name for name, _ in net.named_parameters()])),
            *([] if mix is None else [_Shim(mix, {name: 1.0 for name, _ in mix.named_parameters()})]),
        ],
    )


class _Shim(PyTorchShim):
    """Thinc's shim, with a learning rate for each weight; what has no gradient, or rate, is left alone."""

    def __init__(self, net: Any, rates: dict[str, float]) -> None:
        super().__init__(net)
        self.rates = rates
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(rates[name] > 0)

    def finish_update(self, optimizer: Optimizer) -> None:
        parameters = self._model.named_parameters()
        adam.step(optimizer, (((self.id, name), parameter, self.rates[name]) for name, parameter in parameters))


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies matrices of bfloat16 faster than of float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def _trim() -> None:
    """Give free memory back to the system: pieces of it that no array fits into would add up to gigabytes."""
    if _libc is not None:
        _libc.malloc_trim(0)


def _coalesce(table: torch.nn.Parameter) -> None:
    """A row of its gradient for each that was used; or it would have one for each piece of the batch."""
    if table.grad is not None and table.grad.is_sparse:
        table.grad = table.grad.coalesce()


def _autocast(precision: str, device: torch.device) -> torch.autocast:
    """Matrix products in this precision, where it is not that of the weights."""
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(device) else "fp32"
    halved = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=halved, enabled=halved is not None)


def _narrowed(embeddings: Any, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
    """On a CPU what flows from layer to layer, and back, has the precision of their products: less to move."""
    return output.to(product_dtype(output)) if output.device.type == "cpu" else output


def _forward(model: Model, docs: list[Pieces], is_train: bool) -> tuple[list[Encoded], Callable]:
    net, mix = model.shims[0]._model, next((shim._model for shim in model.shims[1:]), None)
    net.train(is_train)
    every_layer = model.attrs["hidden_states"] or model.attrs["attentions"] or mix is not None
    alone = is_train and model.attrs["class_pieces_alone"] and not every_layer
    batch = Batch(docs, net, model.attrs["attentions"], alone)
    budget, scale, precision = (model.attrs[name] for name in ("words_per_batch", "loss_scale", "precision"))
    ask = {
        "output_hidden_states": model.attrs["hidden_states"] or mix is not None,
        "output_attentions": model.attrs["attentions"],
    }

    rows = torch.zeros(batch.n_rows, net.config.hidden_size, device=batch.device, dtype=batch.dtype)
    pooled: torch.Tensor | None = None
    passes: list[_Pass] = []
    layers = _Layers(batch, model.attrs["hidden_states"], model.attrs["attentions"])
    packs = batch.packs(budget)
    kept, many = 0, len(packs) >= MANY
    if many and is_train:
        budget = max(1, budget // SHARE)
        packs = batch.packs(budget)
    with _autocast(precision, batch.device), packed(net, budget) if len(packs) > 1 and not is_train else nullcontext():
        for number, windows in enumerate(packs):
            step = _Pass(net, mix, batch, windows, precision, ask)
            kept += step.layout.size
            output, pool = step.run(keep=is_train and (kept <= budget or not passes), layers=layers)
            rows[step.layout.rows] = output
            if pool is not None:
                pooled = rows.new_zeros(len(batch.lengths), rows.shape[1]) if pooled is None else pooled
                pooled[step.windows] = pool
            if is_train:
                passes.append(step)
                if step.output is None:
                    del step.layout  # is made again, too
            if many and is_train and (number + 1) % (MANY // 2) == 0:
                _trim()
    if many:  # before all that comes out is put together
        _trim()

    def backprop(d_docs: list[tuple[Any, Any]]) -> list:
        d_rows, d_pooled = batch.split_gradients(d_docs, scale.value)
        passes.reverse()  # those that were kept go first, and leave their memory to what is computed again
        while passes:
            passes.pop().backward(d_rows, d_pooled)
            if many and len(passes) % (MANY // 2) == 0:
                _coalesce(net.get_input_embeddings().weight)
                _trim()
        model.attrs["batches"] += 1
        if model.attrs["batches"] % OFTEN == 0:
            _trim()
        return []

    return layers.add_to(batch.join_outputs(rows, pooled)), backprop


class _Pass:
    """One pack through the network. Keeps its graph, or what it takes to compute the same again."""

    def __init__(
        self,
        net: Any,
        mix: LayerMix | None,
        batch: Batch,
        windows: np.ndarray,
        precision: str,
        ask: dict[str, bool],
    ) -> None:
        self.net, self.mix, self.precision, self.ask = net, mix, precision, ask
        self.batch, self.pack = batch, windows
        self.device, self.dtype, self.windows = batch.device, batch.dtype, batch.on_device(windows)

    @cached_property
    def layout(self) -> Layout:
        return self.batch.layout(self.pack)

    def run(self, keep: bool, layers: _Layers) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The rows of last_hidden_state (n_rows, width), padding left out, and the pooler's (n_windows, width)."""
        self.random_state = _random_state(self.device) if self.net.training and not keep else None
        with torch.set_grad_enabled(keep):
            output = self._compute(layers)
        self.output = output if keep else None
        return output[0].detach(), None if output[1] is None else output[1].detach()

    def _compute(self, layers: _Layers | None = None) -> tuple[torch.Tensor, torch.Tensor | None]:
        chosen = self.layout.chosen
        with nullcontext() if chosen is None else only_rows(self.net, chosen):
            output = self.net(**self.layout.inputs, **self.ask)
        if layers is not None:
            layers.keep(self, output)
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None and len(pooled) < len(self.windows):  # the network takes all windows for one
            firsts = output.last_hidden_state[0, self.layout.firsts]
            pooled = self.net.pooler(firsts[:, None])[: len(self.windows)]
        states = [output.last_hidden_state] if self.mix is None else output.hidden_states
        rows = [self.layout.rows_of(state).to(self.dtype) for state in states]
        hidden = rows[0] if self.mix is None else self.mix(torch.stack(rows))
        return hidden, None if pooled is None else pooled.to(self.dtype)

    def backward(self, d_rows: torch.Tensor | None, d_pooled: torch.Tensor | None) -> None:
        output = self.output
        if output is None:
            assert self.random_state is not None
            replay, autocast = _replay(self.random_state, self.device), _autocast(self.precision, self.device)
            with replay, autocast, torch.enable_grad():
                output = self._compute()
        pairs = [(output[0], d_rows, self.layout.rows), (output[1], d_pooled, self.windows)]
        known = [(tensor, d[index]) for tensor, d, index in pairs if tensor is not None and d is not None]
        if known:
            torch.autograd.backward([tensor for tensor, _ in known], [gradient for _, gradient in known])


class _Layers:
    """What every layer gave, gathered over the passes."""

    def __init__(self, batch: Batch, hidden_states: bool, attentions: bool) -> None:
        self.batch = batch
        self.ask_states, self.ask_attentions = hidden_states, attentions
        self.rows: torch.Tensor | None = None  # (n_layers + 1, n_rows, width)
        self.attentions: dict[int, Any] = {}  # by window

    def keep(self, step: _Pass, output: Any) -> None:
        if self.ask_states:
            states = torch.stack([step.layout.rows_of(h.detach()).to(step.dtype) for h in output.hidden_states])
            if self.rows is None:
                self.rows = states.new_zeros(len(states), len(self.batch.ids), states.shape[2])
            self.rows[:, step.layout.rows] = states
        if self.ask_attentions:
            matrices = torch.stack([a.detach().to(step.dtype) for a in output.attentions], dim=1)
            for window, matrix in zip(step.windows.tolist(), matrices, strict=True):
                n = int(self.batch.lengths[window])
                self.attentions[window] = torch2xp(matrix[:, :, :n, :n].contiguous())

    def add_to(self, encoded: list[Encoded]) -> list[Encoded]:
        batch = self.batch
        if self.rows is not None:
            merged = torch2xp(torch.stack([batch.pieces.mean(layer) for layer in self.rows]))
            parts = np.split(merged, batch.bounds.pieces[1:-1], axis=1)
            encoded = [one._replace(hidden_states=part) for one, part in zip(encoded, parts, strict=True)]
        if self.attentions:
            encoded = [
                one._replace(attentions=[self.attentions[w] for w in range(start, end)])
                for one, (start, end) in zip(encoded, pairwise(batch.bounds.windows), strict=True)
            ]
        return encoded


def _random_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


@contextmanager
def _replay(state: torch.Tensor, device: torch.device) -> Iterator[None]:
    """Draw the same dropout again, and leave the generator as it was found."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
        yield
