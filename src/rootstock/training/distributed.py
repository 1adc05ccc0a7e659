"""One batch over several processes, by torch.distributed: each computes its part, all take the same step."""

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
) -> dict[str, float]:
    """`nlp.update`; where torch.distributed has a process group, each process calls it with the whole batch.

    The step is that of one process up to rounding where losses are means over documents, as that of `trf_textcat` is,
    and dropout is zero; else each process draws its own dropout. Source: Li et al. 2020, "PyTorch Distributed:
    Experiences on Accelerating Data Parallel Training". RETURNS: the losses over the whole batch, in every process.
    """
    losses = {} if losses is None else losses
    if not dist.is_initialized():
        return nlp.update(examples, drop=drop, sgd=sgd, losses=losses)
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = examples[rank::size]
    share, found = len(mine) / len(examples), {}
    if mine:
        found = nlp.update(mine, drop=drop, sgd=False, losses={})  # False: gradients wait
    add_gradients(nlp, share)
    for _, component in nlp.pipeline:
        if hasattr(component, "finish_update"):
            component.finish_update(sgd)
    parts: list[Any] = [None] * size
    dist.all_gather_object(parts, {name: share * loss for name, loss in found.items()})
    for name, loss in ((name, loss) for part in parts for name, loss in part.items()):
        losses[name] = losses.get(name, 0.0) + loss
    return losses


def add_gradients(nlp: Language, share: float) -> None:
    """Give every process the sum of all processes' gradients, each times its share of the batch.

    What has a gradient in no process has none afterwards.
    """
    slots = [slot for _, component in nlp.pipeline for slot in _slots(getattr(component, "model", None))]
    gradients = [slot.read() for slot in slots]
    device = next((slot.like.device for slot in slots), torch.device("cpu"))
    present = torch.tensor([gradient is not None for gradient in gradients], dtype=torch.int32, device=device)
    dist.all_reduce(present, dist.ReduceOp.MAX)
    held = [(s, g) for s, g, anywhere in zip(slots, gradients, present.tolist(), strict=True) if anywhere]
    if not held:
        return
    parts = [torch.zeros_like(s.like).flatten() if g is None else g.flatten() * share for s, g in held]
    flat = torch.cat(parts)  # one message instead of one for each array of weights
    dist.all_reduce(flat)
    for (slot, _), total in zip(held, flat.split([len(part) for part in parts]), strict=True):
        slot.write(total.view_as(slot.like))


class _Slot(NamedTuple):
    """Where a gradient is kept: by Thinc, or by PyTorch."""

    like: torch.Tensor  # the weights
    read: Callable[[], torch.Tensor | None]
    write: Callable[[torch.Tensor], None]


def _slots(model: Any) -> list[_Slot]:
    if not isinstance(model, Model):
        return []
    slots = []
    for node in model.walk():
        slots += [_of_thinc(node, name) for name in node.param_names if node.has_param(name)]
        for shim in node.shims:
            if isinstance(shim, PyTorchShim):
                slots += [_of_torch(p) for p in shim._model.parameters() if p.requires_grad]
    return slots


def _of_thinc(node: Model, name: str) -> _Slot:
    def read() -> torch.Tensor | None:
        return xp2torch(node.get_grad(name)) if node.has_grad(name) else None

    return _Slot(xp2torch(node.get_param(name)), read, lambda total: node.set_grad(name, torch2xp(total)))


def _of_torch(parameter: torch.nn.Parameter) -> _Slot:
    def read() -> torch.Tensor | None:
        gradient = parameter.grad
        return gradient.to_dense() if gradient is not None and gradient.is_sparse else gradient

    return _Slot(parameter, read, lambda total: setattr(parameter, "grad", total))
