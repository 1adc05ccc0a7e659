"""A step of spaCy's optimizer over PyTorch's weights."""

from __future__ import annotations

from typing import Any

import torch
from thinc.api import Optimizer, torch2xp, xp2torch

Key = tuple[int, str]


def step(optimizer: Optimizer, key: Key, weights: torch.nn.Parameter, rate: float) -> None:
    """Move the weights along their gradient, and take it from them.

    Adam in one pass over memory, by all threads; other optimizers as Thinc has them. Of a table of embeddings only the
    rows move that have a gradient, and their moments with them: "lazy Adam", the same as the dense one for a row that
    each batch uses. rate: a multiple of the optimizer's learning rate. Moments are kept where Thinc keeps them.
    """
    gradient, weights.grad = weights.grad, None
    assert gradient is not None
    if not _is_plain_adam(optimizer):
        dense = gradient.to_dense() if gradient.is_sparse else gradient
        stepped, _ = optimizer(key, torch2xp(weights.data), torch2xp(dense), lr_scale=rate)
        weights.data = xp2torch(stepped, device=weights.device)
        return
    optimizer.nr_update[key] += 1
    tables = [weights.data, _moment(optimizer.mom1, key, weights), _moment(optimizer.mom2, key, weights)]
    if not gradient.is_sparse:
        _adam(optimizer, optimizer.nr_update[key], rate, gradient, *tables)
        return
    gradient = gradient.coalesce()
    rows = gradient.indices()[0]
    used = [table.index_select(0, rows) for table in tables]
    _adam(optimizer, optimizer.nr_update[key], rate, gradient.values(), *used)
    for table, part in zip(tables, used, strict=True):
        table.index_copy_(0, rows, part)


def _is_plain_adam(optimizer: Optimizer) -> bool:
    decay = optimizer.L2_is_weight_decay or not optimizer.L2
    return optimizer.b1 > 0 and optimizer.b2 > 0 and decay and not optimizer.use_radam and optimizer.averages is None


def _moment(moments: dict[Key, Any], key: Key, weights: torch.Tensor) -> torch.Tensor:
    if key not in moments:
        moments[key] = torch2xp(torch.zeros(weights.numel(), device=weights.device))
    return xp2torch(moments[key], device=weights.device).view_as(weights)


def _adam(
    optimizer: Optimizer,
    n: int,
    rate: float,
    gradient: torch.Tensor,
    weights: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
) -> None:
    """Step number n, in place. As Thinc's: the norm of each array is clipped, weights decay after they have moved."""
    if optimizer.grad_clip:
        norm = torch.linalg.vector_norm(gradient)
        gradient.mul_((optimizer.grad_clip / norm).clamp(max=1.0))
    rate = rate * optimizer.learn_rate
    decay = rate * optimizer.L2
    torch._fused_adamw_(
        [weights],
        [gradient],
        [first],
        [second],
        [],
        [torch.tensor(float(n), device=weights.device)],
        # PyTorch's decays first, and by lr * weight_decay: (w - step)(1 - decay) = w (1 - decay) - (1 - decay) step
        lr=rate * (1 - decay),
        weight_decay=optimizer.L2 / (1 - decay),
        beta1=optimizer.b1,
        beta2=optimizer.b2,
        eps=optimizer.eps / (1 - optimizer.b2**n) ** 0.5,  # Thinc's is added before the correction of the bias
        amsgrad=False,
        maximize=False,
    )
