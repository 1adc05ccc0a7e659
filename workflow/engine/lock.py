"""A lock that ends with its process, however that ends: nothing is left that somebody must remove."""

from __future__ import annotations

import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from .errors import Problem


@contextmanager
def alone(path: Path, what: str, patience: float) -> Iterator[None]:
    """Hold the lock in a file. Raises Problem if another process holds it for longer than `patience` seconds.

    what: for the message, such as "finetune@base".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        give_up, waiting = time.monotonic() + patience, False
        while not _locked(file):
            file.seek(0)
            other = file.read().strip() or "it is just starting"
            if time.monotonic() >= give_up:
                raise Problem(f"{what} runs in this clone already ({other}): wait until it ends, or stop it")
            if not waiting:
                print(f"{what} runs already ({other}): waiting for up to {patience:g} s", file=sys.stderr)
            waiting = True
            time.sleep(0.5)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise Problem(f"{file.name}: cannot be locked ({error.strerror}): the file system must support flock") from None
    return True
