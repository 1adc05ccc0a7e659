"""The last layer for some pieces alone, where nobody reads the others: most of its work is saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from .families import family_of


@contextmanager
def only_rows(net: Any, rows: torch.Tensor) -> Iterator[None]:
    """Within, the model gives these rows of what it would give, end to end: (1, n_rows, width).

    rows (int, Shape (n_rows,)): among all pieces of the input, padding counted.
    For families whose `after_attention` is known: from that module on no piece sees another.
    """
    path = family_of(net.config).after_attention
    assert path is not None
    module = net.get_submodule(path.format(net.config.num_hidden_layers - 1))

    def choose(module: Any, inputs: tuple) -> tuple:
        return tuple(states.flatten(0, 1).index_select(0, rows)[None] for states in inputs)

    handle = module.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()
