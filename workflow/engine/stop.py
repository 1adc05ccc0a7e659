"""When a stage is asked to stop: by a signal, or because DVC or Snakemake, which started it, is gone."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil  # type: ignore[import-untyped]

GRACE = 8  # seconds for a stage that defers to a checkpoint; Slurm kills 30 s after its signal, others after 10 s
SHELLS = {"sh", "bash", "dash", "zsh", "fish", "ksh"}  # between an engine and its stage
ENGINES = ("python", "dvc", "snakemake")


class Stopped(Exception):
    """The stage has stopped where it can continue. The message says where."""


_asked: int | None = None  # the signal that asked
_deferred = False
_parent: int | None = None  # of a process that ends with its parent
_late = threading.Timer(0, lambda: None)


def listen() -> None:
    """Exit on a signal as after an error, so that the stage cleans up."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, _on_signal)


@contextmanager
def deferred(ends_with_parent: bool = False) -> Iterator[Callable[[], bool]]:
    """Within, a signal does not exit, but makes the given function true: write a checkpoint, and stop.

    If nothing calls that function within GRACE seconds, the process ends all the same, and the last checkpoint counts.

    ends_with_parent: whether to end at once on the signal that PyTorch sends to a worker whose parent was killed.
    """
    global _deferred, _parent
    _deferred, _parent = True, os.getppid() if ends_with_parent else None
    listen()
    try:
        yield _is_asked
    finally:
        _deferred = False
        _late.cancel()


def _is_asked() -> bool:
    if _asked is None:  # first: if a signal came after `cancel`, its timer would never be cancelled
        return False
    _late.cancel()
    return True


def code() -> int:
    """The exit status of a stage that was asked to stop, as shells have it."""
    return 128 + (_asked or signal.SIGTERM)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _asked, _late
    if _parent not in (None, os.getppid()):
        os._exit(128 + number)
    if not _deferred:
        _asked = number
        sys.exit(code())
    if _asked is None:
        _asked = number
        _late = threading.Timer(GRACE, _exit_late)
        _late.daemon = True
        _late.start()


def _exit_late() -> None:
    try:
        print(f"no step has ended for {GRACE} s: stopped without a new checkpoint", file=sys.stderr, flush=True)
    finally:  # also if nobody reads the output any more
        os._exit(code())


def follow_engine() -> None:
    """Ask this process to stop when the engine has ended without it: a rerun would race with this stage."""
    parent = os.getppid()
    engine = _engine()

    def follow() -> None:
        while os.getppid() == parent and engine is not None and _is_alive(engine):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        with suppress(OSError):  # perhaps nobody reads the output any more
            print("the process that started this stage is gone: stopping", file=sys.stderr, flush=True)

    threading.Thread(target=follow, daemon=True).start()


def _engine() -> psutil.Process | None:
    """The process that started this one, through shells; None if it is gone already."""
    process = psutil.Process().parent()
    while process is not None and process.name() in SHELLS and process.pid != 1:
        process = process.parent()
    return process if process is not None and process.name().startswith(ENGINES) else None  # else it was adopted


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
