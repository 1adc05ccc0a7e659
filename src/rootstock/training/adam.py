"""A step of spaCy's optimizer over PyTorch's weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from thinc.api import Optimizer, torch2xp, xp2torch

Key = tuple[int, str]
Weights = tuple[Key, torch.nn.Parameter, float]  # what the optimizer knows it by; a multiple of its learning rate


def step(optimizer: Optimizer, parameters: Iterable[Weights]) -> None:
    """Move weights along their gradients, and take these from them; those that have none stay as they are.

    Adam in one call for all of the same rate and step number; other optimizers as Thinc has them. Of a table of
    embeddings only the rows move that have a gradient, and their moments with them: "lazy Adam", the same as the dense
    one for a row that each batch uses. Moments are kept where Thinc keeps them.
    """
    known = [(*one, gradient) for one in parameters if (gradient := one[1].grad) is not None]
    if not _is_plain_adam(optimizer):
        for key, weights, rate, gradient in known:
            dense = gradient.to_dense() if gradient.is_sparse else gradient
            stepped, _ = optimizer(key, torch2xp(weights.data), torch2xp(dense), lr_scale=rate)
            weights.data, weights.grad = xp2torch(stepped, device=weights.device), None
        return
    alike = defaultdict(list)  # what one call takes: step number and rate are the same
    for key, weights, rate, gradient in known:
        optimizer.nr_update[key] += 1
        alike[optimizer.nr_update[key], rate].append((key, weights, gradient))
        weights.grad = None
    for (number, rate), members in alike.items():
        columns, parts = [], []
        for key, weights, gradient in members:
            tables = [weights.data, _moment(optimizer.mom1, key, weights), _moment(optimizer.mom2, key, weights)]
            if gradient.is_sparse:
                gradient = gradient.coalesce()
                rows, gradient = gradient.indices()[0], gradient.values()
                used = [table.index_select(0, rows) for table in tables]
                parts += [(table, rows, part) for table, part in zip(tables, used, strict=True)]
                tables = used
            columns.append((gradient, *tables))
        _adam(optimizer, number, rate, *map(list, zip(*columns, strict=True)))
        for table, rows, part in parts:
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
    number: int,
    rate: float,
    gradients: list[torch.Tensor],
    weights: list[torch.Tensor],
    first: list[torch.Tensor],
    second: list[torch.Tensor],
) -> None:
    """Step of that number, in place. As Thinc's: the norm of each array is clipped, weights decay after they moved."""
    if optimizer.grad_clip:
        norms = torch.stack(torch._foreach_norm(gradients)).tolist()
        over = [(g, optimizer.grad_clip / n) for g, n in zip(gradients, norms, strict=True) if n > optimizer.grad_clip]
        if over:
            torch._foreach_mul_(*map(list, zip(*over, strict=True)))
    rate = rate * optimizer.learn_rate
    decay = rate * optimizer.L2
    torch._fused_adamw_(
        weights,
        gradients,
        first,
        second,
        [],
        [torch.tensor(float(number), device=weights[0].device)] * len(weights),
        # PyTorch's decays first, and by lr * weight_decay: (w - step)(1 - decay) = w (1 - decay) - (1 - decay) step
        lr=rate * (1 - decay),
        weight_decay=optimizer.L2 / (1 - decay),
        beta1=optimizer.b1,
        beta2=optimizer.b2,
        eps=optimizer.eps / (1 - optimizer.b2**number) ** 0.5,  # Thinc's is added before the correction of the bias
        amsgrad=False,
        maximize=False,
    )
