"""Processes of one machine."""

import errno
import os
import signal

import pytest
import torch

from tests.workflow.test_listening import addresses
from workflow.engine.errors import Problem
from workflow.model import processes


def sum_and_listen(spent_g) -> tuple[float, set[str]]:
    """In each process. RETURNS: the sum of what the processes have, and where they and their launcher listen."""
    value = torch.ones(1)
    torch.distributed.all_reduce(value)
    found = addresses(os.getppid())
    torch.distributed.barrier()
    return value.item(), found


@pytest.mark.slow
def test_processes_meet_where_no_other_machine_reaches_them():
    assert processes.launch(sum_and_listen, 2) == (2.0, {"127.0.0.1"})


def fail(spent_g) -> None:
    """Rank 1 has no space left; the other fails because it is gone."""
    if processes.rank() == 1:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    torch.distributed.barrier()


def die(spent_g) -> None:
    if processes.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    torch.distributed.barrier()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("work", "says"), [(fail, "No space left on device: free some"), (die, "process 1 was killed, perhaps because")]
)
def test_a_process_that_fails_is_one_line(work, says):
    with pytest.raises(Problem, match=says) as found:
        processes.launch(work, 2)
    assert "\n" not in str(found.value)
