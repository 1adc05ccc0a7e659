"""Compute the last layer only for selected pieces: this saves most of its cost if no head reads the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..weights.families import family_of


@contextmanager
def select_rows(net: Any, rows: torch.Tensor) -> Iterator[None]:
    """Within, the model's last_hidden_state is only these rows: (1, n_rows, width).

    The model's family must have `attention_output`: from that module on, no piece depends on another.

    rows (int, Shape (n_rows,)): indices into the flattened input, padding included.
    """
    path = family_of(net.config).attention_output
    assert path is not None
    layers, _, attention_output = path.partition("{}.")
    layer = net.get_submodule(f"{layers}{net.config.num_hidden_layers - 1}")

    def limit_queries(module: Any, inputs: tuple, kwargs: dict[str, Any]) -> tuple:
        windows = kwargs.get("windows")
        return inputs, kwargs if windows is None else {**kwargs, "windows": windows.first_piece_queries()}

    def select(module: Any, inputs: tuple) -> tuple:
        return tuple(states.flatten(0, 1).index_select(0, rows)[None] for states in inputs)

    handles = [
        layer.register_forward_pre_hook(limit_queries, with_kwargs=True),
        layer.get_submodule(attention_output).register_forward_pre_hook(select),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
