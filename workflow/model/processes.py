"""Several processes of this machine that work on one thing together, by torchrun's engine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from ..engine import energy

SECONDS = 5  # between two looks at the meter


def launch(work: Callable[..., Any], processes: int, *args: Any) -> Any:
    """Call work(*args, spent_g) in each process, in a group of torch.distributed. RETURNS: what the first returned.

    spent_g: a function that tells the grams of CO2 so far, of all processes: this one meters its children.
    Raises torch's ChildFailedError where a process fails; the others are stopped.
    """
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    spent = multiprocessing.get_context("spawn").Value("d", 0.0)
    done = threading.Event()

    def tell() -> None:
        while not done.wait(SECONDS):
            spent.value = energy.spent_g()

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="spawn",
    )
    teller = threading.Thread(target=tell)
    teller.start()
    try:
        return elastic_launch(config, _joined)(work, *args, spent)[0]
    finally:
        done.set()
        teller.join()


def _joined(work: Callable[..., Any], *args: Any) -> Any:
    """In each process: join the group, work, leave it."""
    import torch
    import torch.distributed as dist

    *args_, spent = args
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # The others wait while the first scores dev, however long that takes.
    dist.init_process_group(backend, timeout=timedelta(days=7))
    try:
        return work(*args_, lambda: spent.value)
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Of this process in its group; 0 where it is alone."""
    return int(os.environ.get("RANK", 0))


def from_first(value: bool) -> bool:
    """What the first process of the group says."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return value
    told = [value]
    dist.broadcast_object_list(told, src=0)
    return told[0]
