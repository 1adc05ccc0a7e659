"""Processes of one machine."""

import os

import torch

from tests.workflow.test_listening import addresses
from workflow.model import processes


def sum_and_listen(spent_g) -> tuple[float, set[str]]:
    """In each process. RETURNS: the sum of what the processes have, and where they and their launcher listen."""
    value = torch.ones(1)
    torch.distributed.all_reduce(value)
    found = addresses(os.getppid())
    torch.distributed.barrier()
    return value.item(), found


def test_processes_meet_where_no_other_machine_reaches_them():
    assert processes.launch(sum_and_listen, 2) == (2.0, {"127.0.0.1"})
