"""Threads, seeds and deterministic kernels: what it takes for the same inputs to give the same bytes."""

from __future__ import annotations

from ..engine.params import Params


def make_deterministic(params: Params, rank: int = 0, processes: int = 1) -> None:
    """For stages that compute with PyTorch: choose the device, set the number of threads and every seed.

    Uses a GPU if there is one. With several processes, each gets its own GPU and an equal share of the threads.
    """
    import spacy
    import torch

    spacy.prefer_gpu(rank)
    torch.set_num_threads(max(1, params.threads // processes))
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, and never read
    spacy.util.fix_random_seed(params.seed)
