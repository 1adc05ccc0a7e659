"""Compute the last layer only for selected pieces: this saves most of its cost if no head reads the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..weights.families import family_of


def has_attention_output(net: Any) -> bool:
    """Whether the modules that `select_rows` changes are known and there."""
    try:
        return _modules(net) is not None
    except AttributeError:  # this version of Transformers names them otherwise
        return False


def _modules(net: Any) -> tuple[torch.nn.Module, torch.nn.Module] | None:
    """The last layer, and the module in it that takes what attention gives; None if the family has no such module."""
    path = family_of(net.config).attention_output
    if path is None:
        return None
    layers, _, attention_output = path.partition("{}.")
    layer = net.get_submodule(f"{layers}{net.config.num_hidden_layers - 1}")
    return layer, layer.get_submodule(attention_output)


@contextmanager
def select_rows(net: Any, rows: torch.Tensor) -> Iterator[None]:
    """Within, the model's last_hidden_state is only these rows: (1, n_rows, width).

    The model must have an attention output (`has_attention_output`): from there on, no piece depends on another.

    rows (int, Shape (n_rows,)): indices into the flattened input, padding included.
    """
    modules = _modules(net)
    assert modules is not None
    layer, attention_output = modules

    def limit_queries(module: Any, inputs: tuple, kwargs: dict[str, Any]) -> tuple:
        windows = kwargs.get("windows")
        return inputs, kwargs if windows is None else {**kwargs, "windows": windows.first_piece_queries()}

    def select(module: Any, inputs: tuple) -> tuple:
        return tuple(states.flatten(0, 1).index_select(0, rows)[None] for states in inputs)

    handles = [
        layer.register_forward_pre_hook(limit_queries, with_kwargs=True),
        attention_output.register_forward_pre_hook(select),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
