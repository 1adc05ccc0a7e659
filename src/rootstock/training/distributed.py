"""Data parallelism with torch.distributed: each process computes part of a batch, and all take the same step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from spacy.language import Language
from spacy.training import Example
from thinc.api import Model, Optimizer, PyTorchShim, torch2xp, xp2torch


def update(
    nlp: Language,
    examples: list[Example],
    *,
    drop: float = 0.0,
    sgd: Optimizer,
    losses: dict[str, float] | None = None,
    shared: bool = True,
) -> dict[str, float]:
    """`nlp.update`, data-parallel if torch.distributed is initialized. Each process passes the whole batch.

    The step equals that of a single process up to rounding, if losses are means over documents (as in `trf_textcat`)
    and dropout is zero. With dropout each process draws its own mask.
    Source: Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training".

    shared: whether each process computes a part of the batch. If not, each computes all of it, with its own dropout,
        for a loss that depends on pairs of documents; gradients are averaged.
    RETURNS: the losses over the whole batch, in every process.
    """
    losses = {} if losses is None else losses
    if not dist.is_initialized():
        return nlp.update(examples, drop=drop, sgd=sgd, losses=losses)
    rank, size = dist.get_rank(), dist.get_world_size()
    local = examples[rank::size] if shared else examples
    share, local_losses = len(local) / len(examples) if shared else 1 / size, {}
    if local:
        local_losses = nlp.update(local, drop=drop, sgd=False, losses={})  # False: only accumulate gradients
    all_reduce_gradients(nlp, share)
    for _, component in nlp.pipeline:
        if hasattr(component, "finish_update"):
            component.finish_update(sgd)
    gathered: list[Any] = [None] * size
    dist.all_gather_object(gathered, {name: share * loss for name, loss in local_losses.items()})
    for name, loss in ((name, loss) for part in gathered for name, loss in part.items()):
        losses[name] = losses.get(name, 0.0) + loss
    return losses


def all_reduce_gradients(nlp: Language, share: float) -> None:
    """Replace the gradients in every process by their sum, weighted with each process's share of the batch.

    A parameter without a gradient in any process gets none. A gradient that is sparse, of an embedding table, has the
    rows of all processes, and no others: Adam would also move rows whose gradient is zero.

    share: this process's part of the batch, between 0 and 1.
    """
    slots = [slot for _, component in nlp.pipeline for slot in _gradient_slots(getattr(component, "model", None))]
    gradients = [slot.read() for slot in slots]
    device = next((slot.weights.device for slot in slots), torch.device("cpu"))
    kinds = torch.tensor([0 if g is None else SPARSE if g.is_sparse else DENSE for g in gradients], device=device)
    dist.all_reduce(kinds, dist.ReduceOp.MAX)
    reduced = [(s, g, kind) for s, g, kind in zip(slots, gradients, kinds.tolist(), strict=True) if kind]
    if not reduced:
        return
    parts = [torch.zeros_like(s.weights) if g is None else g.to_dense() * share for s, g, _ in reduced]
    flat = torch.cat([part.flatten() for part in parts])  # one message instead of one per array
    dist.all_reduce(flat)
    rows = iter(_union_of_rows([(s.weights, g) for s, g, kind in reduced if kind == SPARSE]))
    totals = flat.split([part.numel() for part in parts])
    for (slot, _, kind), part in zip(reduced, totals, strict=True):
        total = part.view_as(slot.weights)
        if kind == SPARSE:
            touched = next(rows)
            total = torch.sparse_coo_tensor(touched[None], total[touched], total.shape, check_invariants=False)
        slot.write(total)


DENSE, SPARSE = 1, 2  # kinds of gradients


def _union_of_rows(tables: list[tuple[torch.Tensor, torch.Tensor | None]]) -> list[torch.Tensor]:
    """For each table and its sparse gradient in this process, the rows that have a gradient in any process."""
    if not tables:
        return []
    masks = [torch.zeros(len(weights), dtype=torch.int32, device=weights.device) for weights, _ in tables]
    for mask, (_, gradient) in zip(masks, tables, strict=True):
        if gradient is not None:
            mask[gradient.coalesce().indices()[0]] = 1
    flat = torch.cat(masks)
    dist.all_reduce(flat, dist.ReduceOp.MAX)
    return [mask.nonzero()[:, 0] for mask in flat.split([len(mask) for mask in masks])]


class _GradientSlot(NamedTuple):
    """Access to the gradient of one array of weights, of a Thinc or a PyTorch model."""

    weights: torch.Tensor
    read: Callable[[], torch.Tensor | None]
    write: Callable[[torch.Tensor], None]


def _gradient_slots(model: Any) -> list[_GradientSlot]:
    if not isinstance(model, Model):
        return []
    slots = []
    for node in model.walk():
        slots += [_thinc_slot(node, name) for name in node.param_names if node.has_param(name)]
        for shim in node.shims:
            if isinstance(shim, PyTorchShim):
                slots += [_torch_slot(p) for p in shim._model.parameters() if p.requires_grad]
    return slots


def _thinc_slot(node: Model, name: str) -> _GradientSlot:
    def read() -> torch.Tensor | None:
        return xp2torch(node.get_grad(name)) if node.has_grad(name) else None

    return _GradientSlot(xp2torch(node.get_param(name)), read, lambda total: node.set_grad(name, torch2xp(total)))


def _torch_slot(parameter: torch.nn.Parameter) -> _GradientSlot:
    return _GradientSlot(parameter, lambda: parameter.grad, lambda total: setattr(parameter, "grad", total))
