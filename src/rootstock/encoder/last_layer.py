"""The last layer for some pieces alone, where nobody reads the others: most of its work is saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..weights.families import family_of


@contextmanager
def only_rows(net: Any, rows: torch.Tensor) -> Iterator[None]:
    """Within, the model gives these rows of what it would give, end to end: (1, n_rows, width).

    rows (int, Shape (n_rows,)): among all pieces of the input, padding counted.
    For families whose `after_attention` is known: from that module on no piece sees another.
    """
    path = family_of(net.config).after_attention
    assert path is not None
    layers, _, after = path.partition("{}.")
    layer = net.get_submodule(f"{layers}{net.config.num_hidden_layers - 1}")

    def ask(module: Any, inputs: tuple, settings: dict[str, Any]) -> tuple:
        windows = settings.get("windows")
        return inputs, settings if windows is None else {**settings, "windows": windows.asked_by_first()}

    def choose(module: Any, inputs: tuple) -> tuple:
        return tuple(states.flatten(0, 1).index_select(0, rows)[None] for states in inputs)

    handles = [
        layer.register_forward_pre_hook(ask, with_kwargs=True),
        layer.get_submodule(after).register_forward_pre_hook(choose),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
