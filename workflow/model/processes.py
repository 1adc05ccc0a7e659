"""Run a function in several processes of this machine, as torchrun does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..engine import energy, stop
from ..engine.errors import Problem
from ..engine.stage import in_one_line

STOPPED, PROBLEM = "stopped", "problem"  # files in which a process says why it has ended, in one line
METER_INTERVAL = 5  # seconds between two readings of the meter


def launch(work: Callable[..., Any], processes: int, *args: Any) -> Any:
    """Call work(*args, spent_g) in each process of a torch.distributed group. RETURNS: the result of rank 0.

    spent_g: a function that returns the grams of CO2 of all processes so far; this process meters its children.
    Raises Stopped or Problem if a process did, and torch's ChildFailedError if one fails otherwise.
    """
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    spent = multiprocessing.get_context("spawn").Value("d", 0.0)
    finished = threading.Event()

    def read_meter() -> None:
        while not finished.wait(METER_INTERVAL):
            spent.value = energy.spent_g()

    # PyTorch's servers listen on all interfaces: processes meet by files, and talk over the loopback interface.
    os.environ |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    folder = tempfile.TemporaryDirectory()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint=f"{folder.name}/launcher",
        rdzv_configs={"store_type": "file"},
        local_addr="localhost",
        max_restarts=0,
        start_method="spawn",
    )
    meter = threading.Thread(target=read_meter)
    meter.start()
    try:
        return elastic_launch(config, _in_group)(work, *args, f"{folder.name}/group", spent)[0]
    except (SignalException, ChildFailedError) as failure:  # the processes have got the signal, too
        for name, error in ((STOPPED, stop.Stopped), (PROBLEM, Problem)):
            if (said := Path(folder.name, name)).exists():
                raise error(said.read_text("utf-8")) from None
        if isinstance(failure, SignalException):
            raise stop.Stopped("stopped without a new checkpoint") from None
        for number, process in failure.failures.items():
            if process.exitcode == -signal.SIGKILL:
                raise Problem(
                    f"process {number} was killed, perhaps because the machine ran out of memory: lower "
                    "finetune.processes or wordpiece.words_per_batch"
                ) from None
        raise
    finally:
        stop.listen()  # PyTorch has set handlers of its own
        finished.set()
        meter.join()
        folder.cleanup()


def _in_group(work: Callable[..., Any], *args: Any) -> Any:
    """In each process: join the group, work, leave the group."""
    import torch
    import torch.distributed as dist

    *work_args, meeting, spent = args
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    # The other ranks wait while rank 0 scores dev, which may take long.
    size = int(os.environ["WORLD_SIZE"])
    store = dist.FileStore(meeting, size)
    dist.init_process_group(backend, store=store, rank=rank(), world_size=size, timeout=timedelta(days=7))
    try:
        return work(*work_args, lambda: spent.value)
    except stop.Stopped as stopped:
        Path(meeting).with_name(STOPPED).write_text(str(stopped), "utf-8")
        sys.exit(stop.code())  # a process that returns waits for the launcher, which waits for it after a signal
    except Exception as error:  # perhaps of one process, and the others fail because it is gone
        if said := in_one_line(error):
            Path(meeting).with_name(PROBLEM).write_text(said, "utf-8")
        raise
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """Rank of this process in its group; 0 without a group."""
    return int(os.environ.get("RANK", 0))


def broadcast(value: Any) -> Any:
    """The value of rank 0, in every process."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gather(value: Any) -> list[Any]:
    """The values of all processes, by rank, in every process."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
