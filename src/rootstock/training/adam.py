"""Optimizer steps on PyTorch parameters, with spaCy's (Thinc's) optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from thinc.api import Adam, Optimizer, torch2xp, xp2torch

from ..checked import checked, numbers

Key = tuple[int, str]
KeyedParameter = tuple[Key, torch.nn.Parameter, float]  # the optimizer's key; a multiplier of its learning rate


def step(optimizer: Optimizer, parameters: Iterable[KeyedParameter], fused: bool = True) -> None:
    """Update parameters by their gradients, and clear these. Parameters without a gradient do not change.

    Adam runs as one fused call for all parameters with the same learning rate and step number; other optimizers run
    as in Thinc. A sparse gradient (of an embedding table) updates only the rows that it has, and their moments: "lazy
    Adam", which equals dense Adam for a row that every batch uses. Moments are stored in Thinc's optimizer.

    parameters: (key, parameter, multiplier of the learning rate) each.
    fused: whether to use PyTorch's fused Adam; if not, or if it does not work, Adam runs as single operations.
    """
    with_gradient = [(*entry, gradient) for entry in parameters if (gradient := entry[1].grad) is not None]
    if not _is_plain_adam(optimizer):
        for key, weights, lr_scale, gradient in with_gradient:
            dense = gradient.to_dense() if gradient.is_sparse else gradient
            updated, _ = optimizer(key, torch2xp(weights.data), torch2xp(dense), lr_scale=lr_scale)
            weights.data, weights.grad = xp2torch(updated, device=weights.device), None
        return
    groups = defaultdict(list)  # by step number and learning rate
    for key, weights, lr_scale, gradient in with_gradient:
        optimizer.nr_update[key] += 1
        groups[optimizer.nr_update[key], lr_scale].append((key, weights, gradient))
        weights.grad = None
    for (n_steps, lr_scale), group in groups.items():
        columns, sparse_updates = [], []
        for key, weights, gradient in group:
            tensors = [weights.data, _moment(optimizer.mom1, key, weights), _moment(optimizer.mom2, key, weights)]
            if gradient.is_sparse:
                gradient = gradient.coalesce()
                rows, gradient = gradient.indices()[0], gradient.values()
                selected = [tensor.index_select(0, rows) for tensor in tensors]
                sparse_updates += [(tensor, rows, part) for tensor, part in zip(tensors, selected, strict=True)]
                tensors = selected
            columns.append((gradient, *tensors))
        adam = _fused_adam if fused and _fused_is_correct() else _plain_adam
        adam(optimizer, n_steps, lr_scale, *map(list, zip(*columns, strict=True)))
        for tensor, rows, part in sparse_updates:
            tensor.index_copy_(0, rows, part)


def _is_plain_adam(optimizer: Optimizer) -> bool:
    decay = optimizer.L2_is_weight_decay or not optimizer.L2
    return optimizer.b1 > 0 and optimizer.b2 > 0 and decay and not optimizer.use_radam and optimizer.averages is None


def _moment(moments: dict[Key, Any], key: Key, weights: torch.Tensor) -> torch.Tensor:
    if key not in moments:
        moments[key] = torch2xp(torch.zeros(weights.numel(), device=weights.device))
    return xp2torch(moments[key], device=weights.device).view_as(weights)


def _fused_adam(
    optimizer: Optimizer,
    n_steps: int,
    lr_scale: float,
    gradients: list[torch.Tensor],
    weights: list[torch.Tensor],
    first_moments: list[torch.Tensor],
    second_moments: list[torch.Tensor],
) -> None:
    """Adam step number n_steps, in place. As in Thinc, each array's norm is clipped, and weights decay afterwards."""
    clip = optimizer.grad_clip
    if clip:
        norms = torch.stack(torch._foreach_norm(gradients)).tolist()
        too_large = [(g, clip / norm) for g, norm in zip(gradients, norms, strict=True) if norm > clip]
        if too_large:
            torch._foreach_mul_(*map(list, zip(*too_large, strict=True)))
    rate = lr_scale * optimizer.learn_rate
    decay = rate * optimizer.L2
    torch._fused_adamw_(
        weights,
        gradients,
        first_moments,
        second_moments,
        [],
        [torch.tensor(float(n_steps), device=weights[0].device)] * len(weights),
        # PyTorch decays first, and by lr * weight_decay: (w - step)(1 - decay) = w (1 - decay) - (1 - decay) step
        lr=rate * (1 - decay),
        weight_decay=optimizer.L2 / (1 - decay),
        beta1=optimizer.b1,
        beta2=optimizer.b2,
        eps=optimizer.eps / (1 - optimizer.b2**n_steps) ** 0.5,  # Thinc adds eps before bias correction
        amsgrad=False,
        maximize=False,
    )


def _plain_adam(
    optimizer: Optimizer,
    n_steps: int,
    lr_scale: float,
    gradients: list[torch.Tensor],
    weights: list[torch.Tensor],
    first_moments: list[torch.Tensor],
    second_moments: list[torch.Tensor],
) -> None:
    """The same as `_fused_adam`, by public operations."""
    rate = lr_scale * optimizer.learn_rate
    corrected = rate * (1 - optimizer.b2**n_steps) ** 0.5 / (1 - optimizer.b1**n_steps)
    for gradient, weight, first, second in zip(gradients, weights, first_moments, second_moments, strict=True):
        if optimizer.grad_clip and (norm := float(gradient.norm())) > optimizer.grad_clip:
            gradient = gradient * (optimizer.grad_clip / norm)
        first.mul_(optimizer.b1).add_(gradient, alpha=1 - optimizer.b1)
        second.mul_(optimizer.b2).addcmul_(gradient, gradient, value=1 - optimizer.b2)
        weight.addcdiv_(first, second.sqrt().add_(optimizer.eps), value=-corrected).mul_(1 - rate * optimizer.L2)


@checked("the fused Adam")
def _fused_is_correct() -> bool:
    optimizer = Adam(0.1, L2=0.3, L2_is_weight_decay=True, grad_clip=1.0, use_averages=False)
    results = []
    for adam in (_fused_adam, _plain_adam):
        columns = [[numbers(3, 2), numbers(4).mul(9)], [numbers(3, 2).flip(0), numbers(4)]]
        columns += [[torch.full((3, 2), 0.5), torch.full((4,), 0.5)] for _ in range(2)]
        adam(optimizer, 2, 0.5, *columns)
        results.append([tensor for column in columns[1:] for tensor in column])
    return all(torch.allclose(x, y, rtol=1e-5, atol=1e-6) for x, y in zip(*results, strict=True))
