"""A learned weighted sum of all layers' states (scalar mix)."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


class LayerMix(torch.nn.Module):
    """`scale * sum_j softmax(weights)_j h_j` over the states h_j of every layer, embeddings first.

    The initial weights give the mean.
    Source: Peters et al. 2018, "Deep contextualized word representations", equation 1.

    n_states: number of layers, plus one for the embeddings.
    """

    def __init__(self, n_states: int) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.zeros(n_states))
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """(n_states, n_rows, width) -> (n_rows, width)."""
        return self.scale * torch.einsum("s,srw->rw", self.weights.softmax(0), states)

    @classmethod
    def read(cls, file: Path, n_states: int) -> LayerMix:
        """Load a saved mix, or create a new one if the file does not exist."""
        mix = cls(n_states)
        if file.is_file():
            mix.load_state_dict(load_file(file))
        return mix

    def write(self, file: Path) -> None:
        """Save the weights as safetensors."""
        save_file(self.state_dict(), file)
