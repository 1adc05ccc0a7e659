"""The hidden layer that some families have between the class vector and the output layer (`families.Classifier`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from thinc.api import Model, PyTorchWrapper, get_torch_default_device

from ..weights.families import classifier_of


def hidden_layer(config: Any, seed: int) -> Model | None:
    """A new hidden layer, (n_rows, width) -> (n_rows, width); None if the family has none.

    config: the model's configuration in Transformers.
    seed: for the initial weights.
    """
    spec = classifier_of(config)
    if spec.dense is None:
        return None
    import torch
    from transformers.activations import ACT2FN

    width = config.hidden_size
    dense = torch.nn.Linear(width, width, bias=getattr(config, "classifier_bias", True))
    weights = np.random.default_rng(seed).normal(0, 0.02, (width, width)).astype("float32")
    with torch.no_grad():
        dense.weight.copy_(torch.from_numpy(weights))
        if dense.bias is not None:
            dense.bias.zero_()
    parts = {"dense": dense, "activation": ACT2FN[spec.activation]}
    if spec.norm is not None:
        parts["norm"] = torch.nn.LayerNorm(width, eps=config.norm_eps, bias=config.norm_bias)
    layer = torch.nn.Sequential()
    for name, part in parts.items():
        layer.add_module(name, part)
    return PyTorchWrapper(layer.to(get_torch_default_device()))


def set_hidden(layer: Model, arrays: dict[str, np.ndarray]) -> None:
    """Set the layer's weights.

    arrays: by name in the layer's state dict: dense.weight, dense.bias, norm.weight, norm.bias.
    """
    import torch

    layer.shims[0]._model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
